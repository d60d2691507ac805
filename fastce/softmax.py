"""Softmax, its logarithm and its denominator, and log-probabilities of tokens.

With m = max_j z_j and T the sum of exp(z_j − m) over all j but one maximum::

    logsumexp(z)     = m + log1p(T)
    softmax(z)_j     = exp(z_j − m) / (1 + T)
    log_softmax(z)_j = (z_j − m) − log1p(T)

so that the logarithm of a probability near 1 keeps its digits.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastce import _checks, _isa
from fastce._evaluate import Array, Batch, handed_back, last_axis, new_like, working_type

__all__ = ["TokenLogProbs", "log_softmax", "logsumexp", "softmax", "token_log_probs"]


def softmax(logits: npt.ArrayLike, *, axis: int = -1, out: Array | None = None) -> Array:
    """Return exp z_j / Σ_k exp z_k along an axis.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64
        Any shape and strides. −inf gives 0; a row with +inf or NaN, or of −inf alone, gives NaN.
    axis : int, default -1
        The axis of the classes.
    out : array, optional
        Where to write: of the logits' shape and dtype (or float32, for 16-bit logits). It may be
        `logits` itself.

    Returns
    -------
    array
        Of the logits' shape, dtype and memory order, unless `out` says otherwise.

    Raises
    ------
    TypeError, ValueError
        `logits` or `out` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> print(fastce.softmax(np.array([0.0, 0.0, np.log(2.0)])))
    [0.25 0.25 0.5 ]
    """
    return _like_logits("logsumexp", logits, axis, out)


def log_softmax(logits: npt.ArrayLike, *, axis: int = -1, out: Array | None = None) -> Array:
    """Return z_j − log Σ_k exp z_k along an axis, exact also where the probability is near 1.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64
        Any shape and strides. −inf gives −inf; a row with +inf or NaN, or of −inf alone, gives NaN.
    axis : int, default -1
        The axis of the classes.
    out : array, optional
        Where to write: of the logits' shape and dtype (or float32, for 16-bit logits). It may be
        `logits` itself.

    Returns
    -------
    array
        In nats; of the logits' shape, dtype and memory order, unless `out` says otherwise.

    Raises
    ------
    TypeError, ValueError
        `logits` or `out` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> print(fastce.log_softmax(np.array([20.0, 0.0])))
    [-2.06115362e-09 -2.00000000e+01]
    """
    return _like_logits("log_softmax", logits, axis, out)


def logsumexp(logits: npt.ArrayLike, *, axis: int = -1, out: Array | None = None) -> Array:
    """Return log Σ_j exp z_j along an axis.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64
        Any shape and strides. A row of −inf alone gives −inf, one with +inf gives +inf.
    axis : int, default -1
        The axis of the classes.
    out : array, optional
        Where to write: of the result's shape and dtype.

    Returns
    -------
    array
        In nats; of the logits' shape less `axis`. float64 for float64 logits, else float32.

    Raises
    ------
    TypeError, ValueError
        `logits` or `out` does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> print(fastce.logsumexp(np.array([[0.0, 0.0], [1000.0, 1000.0]])))
    [6.93147181e-01 1.00069315e+03]
    """
    z = _checks.logits(logits)
    last = _checks.class_axis(z, axis)
    shape, dtype = z.shape[:last] + z.shape[last + 1 :], working_type(z)
    given = None if out is None else _checks.output(out, shape, (dtype,), [z], None)
    plain = given is not None and given.flags.c_contiguous and given.dtype.isnative
    result: Array = given if given is not None and plain else np.empty(shape, dtype)
    Batch(_kernel("logsumexp"), last_axis(z, last)).run(1.0, loss=result)
    if given is not None and not plain:
        given[...] = result
    return result if out is None else out


class TokenLogProbs(NamedTuple):
    """What `token_log_probs` returns: three arrays of the target's shape.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> log_prob, lse, argmax = fastce.token_log_probs(np.array([[0.0, np.log(3.0)]]), [1])
    >>> print(np.exp(log_prob).round(6), np.exp(lse).round(6), argmax)
    [0.75] [4.] [1]
    """

    log_prob: Array
    """log p of the target, in nats: float64 for float64 logits, else float32."""
    lse: Array
    """log Σ_j exp z_j, of the same dtype."""
    argmax: Array
    """The first class of the largest logit: int64."""


def token_log_probs(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, axis: int = -1
) -> TokenLogProbs:
    """Return log-probability of the target, log-sum-exp and argmax of each row, in one read.

    It is for evaluation of language models: perplexity is exp(−mean log_prob), and the greedy match
    is argmax == target. There is no temporary of the logits' size, so that memory-mapped files and
    16-bit logits are welcome. A row gives the same bits in whatever batch it is.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64
        Any shape and strides.
    target : array_like of integers
        Of the logits' shape less the class axis, in [0, K).
    axis : int, default -1
        The axis of the classes.

    Returns
    -------
    TokenLogProbs
        The arrays `log_prob`, `lse` and `argmax`.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit.
    IndexError
        A label is not in [0, K).

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> logits = np.array([[20.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    >>> result = fastce.token_log_probs(logits, [0, 0])
    >>> print([f"{x:.5g}" for x in result.log_prob], result.argmax)
    ['-2.0612e-09', '-1.3133'] [0 1]
    """
    z = _checks.logits(logits)
    last = _checks.class_axis(z, axis)
    y, _ = _checks.softmax_target(target, z, last, probabilities=False)
    batch = Batch(_kernel("cross_entropy"), last_axis(z, last), labels=y)
    batch.denominator()
    loss, lse = np.empty(y.shape, working_type(z)), np.empty(y.shape, working_type(z))
    argmax = np.empty(y.shape, np.int64)
    batch.run(1.0, loss=loss, log_sum_exp=lse, argmax=argmax)
    return TokenLogProbs(np.negative(loss, out=loss), lse, argmax)


def _like_logits(kind: str, logits: npt.ArrayLike, axis: int, out: Array | None) -> Array:
    z = _checks.logits(logits)
    last = _checks.class_axis(z, axis)
    (given,) = _checks.outputs(out, 1, z, [])
    result = new_like(z) if given is None else given
    Batch(_kernel(kind), last_axis(z, last)).run(1.0, grad=last_axis(result, last))
    return handed_back(out, [result])[0]


_kernels: dict[tuple[str, str], Any] = {}


def _kernel(kind: str) -> Any:
    key = (_isa.selected, kind)
    if key not in _kernels:
        _kernels[key] = _isa.core.SoftmaxKernel(kind)
    return _kernels[key]
