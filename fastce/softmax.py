"""Softmax, log-softmax and log-sum-exp, and log-probabilities of tokens.

Let m = max_j z_j, and T the sum of exp(z_j − m) over all j except one maximum. Then::

    logsumexp(z)     = m + log1p(T)
    softmax(z)_j     = exp(z_j − m) / (1 + T)
    log_softmax(z)_j = (z_j − m) − log1p(T)

The logarithm of a probability near 1 keeps its digits, because T is never added to 1.
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
    r"""Return the softmax along one axis or several.

    .. math:: p_j = \exp z_j \,/\, \sum_k \exp z_k

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64; integer or bool
        Any shape and strides, including a scalar. −inf gives 0. A row that contains +inf or NaN, or
        only −inf, gives NaN. Integers and bools are copied to float64.
    axis : int, tuple of ints or None, default -1
        The axes of the classes; None means all axes. A row is one slice along these axes.
    where : array_like of bool, optional
        Which logits count; broadcasts to the logits. The others are not read and count as −inf: a
        masked class has probability 0, and a row with all its classes masked gives NaN.
    out : array, optional
        Where to write: an array of the logits' shape and dtype (or float32 for 16-bit logits;
        float64 for integers and bools). It may be `logits` itself.

    Returns
    -------
    array
        With the shape, dtype (in native byte order; float64 for integers and bools) and memory
        order of the logits, unless `out` says otherwise. A NumPy scalar if the logits are a scalar.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape or value. For an axis that is out of range, the error
        is ``numpy.exceptions.AxisError``, which is a ValueError.

    References
    ----------
    P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and softmax
    functions", IMA Journal of Numerical Analysis 41(4), 2021.

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
    r"""Return the logarithm of the softmax, accurate even if a probability is near 1.

    .. math:: \log p_j = z_j − \log \sum_k \exp z_k

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64; integer or bool
        Any shape and strides, including a scalar. −inf gives −inf. A row that contains +inf or NaN,
        or only −inf, gives NaN. Integers and bools are copied to float64.
    axis : int, tuple of ints or None, default -1
        The axes of the classes; None means all axes. A row is one slice along these axes.
    where : array_like of bool, optional
        Which logits count; broadcasts to the logits. The others are not read and count as −inf: a
        masked class has log-probability −inf, and a row with all its classes masked gives NaN.
    out : array, optional
        Where to write: an array of the logits' shape and dtype (or float32 for 16-bit logits;
        float64 for integers and bools). It may be `logits` itself.

    Returns
    -------
    array
        In nats, with the shape, dtype and memory order of the logits, unless `out` says otherwise.
        A NumPy scalar if the logits are a scalar.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape or value. For an axis that is out of range, the error
        is ``numpy.exceptions.AxisError``, which is a ValueError.

    References
    ----------
    P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and softmax
    functions", IMA Journal of Numerical Analysis 41(4), 2021.

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
    r"""Return the log-sum-exp along one axis or several.

    .. math:: \lse = \log \sum_j \exp z_j

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64; integer or bool
        Any shape and strides, including a scalar. A row that is empty or contains only −inf gives
        −inf; a row with +inf and no NaN gives +inf. Integers and bools are copied to float64.
    axis : int, tuple of ints or None, default -1
        The axes to sum over; None means all axes.
    keepdims : bool, default False
        Keep the summed axes with size 1, so that the result broadcasts to the logits.
    where : array_like of bool, optional
        Which logits count; broadcasts to the logits. The others are not read and count as −inf: a
        row with all its classes masked gives −inf.
    out : array, optional
        Where to write: an array of the result's shape and dtype.

    Returns
    -------
    array
        In nats, with the shape of the logits without `axis`: float32 for 16-bit and 32-bit logits,
        otherwise float64. A NumPy scalar if no axis is left.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape or value. For an axis that is out of range, the error
        is ``numpy.exceptions.AxisError``, which is a ValueError.

    References
    ----------
    P. Blanchard, D. J. Higham, N. J. Higham, "Accurately computing the log-sum-exp and softmax
    functions", IMA Journal of Numerical Analysis 41(4), 2021.

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
    inputs = [z, mask, _integers(logits)]
    given = None if out is None else checks.output(out, shape, (dtype,), inputs, None)
    result: Array = np.empty(shape, dtype) if given is None else given
    _run("logsumexp", axes, z, mask, result, wants_values=True)
    if out is not None:
        return out
    return result if shape else result[()]


class TokenLogProbs(NamedTuple):
    """The result of `token_log_probs`: three arrays of the target's shape.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> log_prob, lse, argmax = fastce.token_log_probs(np.array([[0.0, np.log(3.0)]]), [1])
    >>> print(np.exp(log_prob).round(6), np.exp(lse).round(6), argmax)
    [0.75] [4.] [1]
    """

    log_prob: Array
    """Log-probability of the target, in nats: float64 for float64 logits, otherwise float32."""
    lse: Array
    """Log-sum-exp of the row, in the same dtype: that of `logsumexp`, up to rounding."""
    argmax: Array
    """Index of the largest logit, the first one if there are several: int64."""


def token_log_probs(
    logits: npt.ArrayLike, target: npt.ArrayLike, *, axis: int = -1
) -> TokenLogProbs:
    """Return the log-probability of the target, the log-sum-exp and the argmax of each row.

    The log-probability of a target y is z_y − lse. To evaluate a language model, compute the
    perplexity, ``exp(-log_prob.mean())``, and the tokens that greedy decoding gets right,
    ``argmax == target``. The logits are read once and no temporary of their size is allocated, so
    they may be memory-mapped or 16-bit. A row gives the same bits in every batch with the same
    memory layout.

    Parameters
    ----------
    logits : array_like of float16, bfloat16, float32 or float64
        Any shape and strides.
    target : array_like of integers
        Class labels in [0, K), with the shape of the logits without the class axis.
    axis : int, default -1
        The axis of the classes.

    Returns
    -------
    TokenLogProbs
        The arrays `log_prob`, `lse` and `argmax`.

    Raises
    ------
    TypeError, ValueError
        An argument has the wrong type, shape or value.
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
    return TokenLogProbs(np.subtract(0.0, found[0], out=found[0]), *found[1:])  # never -0.0


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
    (given,) = checks.outputs(out, 1, z, [mask, _integers(logits)])
    result = new_like(z) if given is None else given
    _run(kind, axes, z, mask, result)
    (written,) = handed_back(out, [result])
    return written if z.ndim or out is not None else written[()]


def _integers(logits: npt.ArrayLike) -> Array | None:
    """Return the array that was converted to float64, which no output may overlap either."""
    return logits if isinstance(logits, np.ndarray) and logits.dtype.kind in "iub" else None


def _run(
    kind: str,
    axes: tuple[int, ...],
    logits: Array,
    mask: Array | None,
    out: Array,
    *,
    wants_values: bool = False,
) -> None:
    """Write to ``out``. The arrays have been checked; the classes lie along all of ``axes``."""
    # In memory order with positive strides, the class axes can usually be read as a single axis.
    order = [i for i in range(logits.ndim) if i not in axes]
    order += sorted(axes, key=lambda i: -abs(logits.strides[i]))
    joins = len(axes) > 1
    steps = [-1 if joins and logits.strides[i] < 0 and i in axes else 1 for i in order]
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
