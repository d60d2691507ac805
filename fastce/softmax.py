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

from fastce._call import checks, checks_softmax, variants
from fastce._call.arguments import handed_back, working_type
from fastce._call.checks_softmax import Axis
from fastce._call.layout import Array, new_like

__all__ = ["TokenLogProbs", "log_softmax", "logsumexp", "softmax", "token_log_probs"]


def softmax(
    logits: npt.ArrayLike,
    *,
    axis: Axis = -1,
    where: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """Return exp z_j / Σ_k exp z_k along an axis, or over several.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64; integer or bool
        Any shape and strides, a scalar included. −inf gives 0; a row with +inf or NaN, or of −inf
        alone, gives NaN. Integers and bools are converted to float64, by a copy.
    axis : int, tuple of ints or None, default -1
        The axes of the classes; None for all. A row is what they hold for one index of the others.
    where : array_like of bool, optional
        Which logits count; broadcasts to them. The others are taken for −inf, and not looked at: a
        masked class has probability 0, and a row of masked classes alone gives NaN.
    out : array, optional
        Where to write: of the logits' shape and dtype (or float32, for 16-bit logits; float64, for
        integers and bools). It may be `logits` itself.

    Returns
    -------
    array
        Of the logits' shape, dtype and memory order, unless `out` says otherwise. A NumPy scalar
        for a scalar.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; ``numpy.exceptions.AxisError``, a ValueError, for `axis`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> print(fastce.softmax(np.array([0.0, 0.0, np.log(2.0)])))
    [0.25 0.25 0.5 ]
    >>> print(fastce.softmax([[0, 0], [0, 0]], axis=None))
    [[0.25 0.25]
     [0.25 0.25]]
    >>> print(fastce.softmax([0, 0, 9], where=[True, True, False]))
    [0.5 0.5 0. ]
    """
    return _like_logits("logsumexp", logits, axis, where, out)


def log_softmax(
    logits: npt.ArrayLike,
    *,
    axis: Axis = -1,
    where: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """Return z_j − log Σ_k exp z_k along an axis, exact also where the probability is near 1.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64; integer or bool
        Any shape and strides, a scalar included. −inf gives −inf; a row with +inf or NaN, or of
        −inf alone, gives NaN. Integers and bools are converted to float64, by a copy.
    axis : int, tuple of ints or None, default -1
        The axes of the classes; None for all. A row is what they hold for one index of the others.
    where : array_like of bool, optional
        Which logits count; broadcasts to them. The others are taken for −inf, and not looked at: a
        masked class has the logarithm −inf, and a row of masked classes alone gives NaN.
    out : array, optional
        Where to write: of the logits' shape and dtype (or float32, for 16-bit logits; float64, for
        integers and bools). It may be `logits` itself.

    Returns
    -------
    array
        In nats; of the logits' shape, dtype and memory order, unless `out` says otherwise. A NumPy
        scalar for a scalar.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; ``numpy.exceptions.AxisError``, a ValueError, for `axis`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> print(fastce.log_softmax(np.array([20.0, 0.0])))
    [-2.06115362e-09 -2.00000000e+01]
    """
    return _like_logits("log_softmax", logits, axis, where, out)


def logsumexp(
    logits: npt.ArrayLike,
    *,
    axis: Axis = -1,
    keepdims: bool = False,
    where: npt.ArrayLike | None = None,
    out: Array | None = None,
) -> Array:
    """Return log Σ_j exp z_j along an axis, or over several.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64; integer or bool
        Any shape and strides, a scalar included. A row of −inf alone, or of nothing, gives −inf;
        one with +inf and no NaN gives +inf. Integers and bools are converted to float64, by a copy.
    axis : int, tuple of ints or None, default -1
        The axes to sum over; None for all.
    keepdims : bool, default False
        Keep the axes that are summed over, with size 1: so the result broadcasts to the logits.
    where : array_like of bool, optional
        Which logits count; broadcasts to them. The others are taken for −inf, and not looked at: a
        row of masked classes alone gives −inf.
    out : array, optional
        Where to write: of the result's shape and dtype.

    Returns
    -------
    array
        In nats; of the logits' shape less `axis`. float32 for logits of 16 or 32 bits, else
        float64. A NumPy scalar if no axis is left.

    Raises
    ------
    TypeError, ValueError
        An argument does not fit; ``numpy.exceptions.AxisError``, a ValueError, for `axis`.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> print(fastce.logsumexp(np.array([[0.0, 0.0], [1000.0, 1000.0]])))
    [6.93147181e-01 1.00069315e+03]
    >>> print(fastce.logsumexp([[0, 0], [0, 0]], axis=None))
    1.3862943611198906
    """
    if where is None and keepdims is False and _is_plain_axis(axis):
        found: Array | None = _kernel("logsumexp", axis).apply(logits, out, True)
        if found is not None:
            return found
    z = checks_softmax.logits(logits)
    axes = checks_softmax.class_axes(z, axis)
    kept = checks_softmax.keepdims(keepdims)
    mask = checks.where(where, z.shape)
    shape = tuple(
        1 if i in axes else size for i, size in enumerate(z.shape) if kept or i not in axes
    )
    dtype = working_type(z)
    given = None if out is None else checks.output(out, shape, (dtype,), [z, mask], None)
    result: Array = np.empty(shape, dtype) if given is None else given
    _run("logsumexp", axes, z, mask, result, wants_values=True)
    if out is not None:
        return out
    return result if shape else result[()]


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
    """log Σ_j exp z_j as `logsumexp` gives it, of the same dtype."""
    argmax: Array
    """The first class of the largest logit: int64."""


def token_log_probs(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, axis: int = -1
) -> TokenLogProbs:
    """Return log-probability of the target, log-sum-exp and argmax of each row, in one read.

    It is for evaluation of language models: perplexity is exp(−mean log_prob), and the greedy match
    is argmax == target. There is no temporary of the logits' size, so that memory-mapped files and
    16-bit logits are welcome. A row gives the same bits in every batch of one memory layout.

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
    found = None
    if _is_plain_axis(axis):
        found = _kernel("cross_entropy", axis).read_tokens(logits, target)
    if found is None:
        z = checks.logits(logits)
        last = checks.class_axis(z, checks.axis(axis))
        y, _ = checks.softmax_target(target, z, last, probabilities=False)
        found = _kernel("cross_entropy", last).read_tokens(z, y, checked=True)
    return TokenLogProbs(np.negative(found[0], out=found[0]), *found[1:])


def _like_logits(
    kind: str, logits: npt.ArrayLike, axis: Axis, where: npt.ArrayLike | None, out: Array | None
) -> Array:
    if where is None and _is_plain_axis(axis):
        found: Array | None = _kernel(kind, axis).apply(logits, out, False)
        if found is not None:
            return found
    z = checks_softmax.logits(logits)
    axes = checks_softmax.class_axes(z, axis)
    mask = checks.where(where, z.shape)
    (given,) = checks.outputs(out, 1, z, [mask])
    result = new_like(z) if given is None else given
    _run(kind, axes, z, mask, result)
    (written,) = handed_back(out, [result])
    return written if z.ndim or out is not None else written[()]


def _run(
    kind: str,
    axes: tuple[int, ...],
    logits: Array,
    mask: Array | None,
    out: Array,
    *,
    wants_values: bool = False,
) -> None:
    """Write to ``out``, of checked arrays; the classes of a row lie along all of ``axes``."""
    # In the order of memory, and forwards, the classes mostly have the strides of one axis.
    order = [i for i in range(logits.ndim) if i not in axes]
    order += sorted(axes, key=lambda i: -abs(logits.strides[i]))
    steps = [-1 if logits.strides[i] < 0 and i in axes else 1 for i in order]
    box: Any = (*(slice(None, None, step) for step in steps), *([None] if not axes else []))

    def rows(array: Array) -> Array:
        view: Array = array.transpose(order)[box]
        return view

    count = max(len(axes), 1)
    shape = [logits.shape[i] for i in order[: logits.ndim - len(axes)]]
    found = _kernel(kind, -count).apply(
        rows(logits),
        out.reshape(shape) if wants_values else rows(out),
        wants_values,
        None if mask is None else rows(mask),
        class_axes=count,
        checked=True,
    )
    if found is None:
        raise AssertionError("checked arguments that the kernels do not take")


_kernels: dict[tuple[Any, str, Any], Any] = {}


def _is_plain_axis(axis: Any) -> bool:
    return type(axis) is int and -64 <= axis < 64


def _kernel(kind: str, axis: Any = -1) -> Any:
    core = variants.core
    key = (core, kind, axis)
    kernel = _kernels.get(key)
    if kernel is None:
        kernel = _kernels.setdefault(key, core.SoftmaxKernel(kind, axis=axis))
    return kernel
