"""Checks of arguments. An error names the argument, what was passed, and what is accepted.

A check returns its argument in the form that the rest of the package uses, and changes nothing.
All checks of a call run before its first write.
"""

import math
import operator
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from fastce._call import layout
from fastce._call.arguments import native_float
from fastce._call.layout import Array
from fastce._call.messages import shown
from fastce._call.positions import position as _position

REDUCTIONS = ("mean", "sum", "none")
ACCEPTED_LOGITS = "float16, bfloat16, float32 or float64"


# Options of a loss --------------------------------------------------------------------------------


def reduction(value: str) -> str:
    if not isinstance(value, str) or value not in REDUCTIONS:
        raise ValueError(f"reduction must be 'mean', 'sum' or 'none', got {shown(value)}")
    return REDUCTIONS[REDUCTIONS.index(value)]  # of Python's own type: not NumPy's, not an Enum


def integer(name: str, value: Any) -> int:
    """Return an index option, such as axis or ignore_index."""
    try:
        result = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {shown(value)}") from None
    if not -(2**63) <= result < 2**63:
        raise ValueError(f"{name} must fit in 64 bits, got {shown(value)}")
    return result


def at_least_one(name: str, value: Any) -> int:
    result = integer(name, value)
    if result < 1:
        raise ValueError(f"{name} must be at least 1, got {shown(value)}")
    return result


def axis(value: Any) -> int:
    """Return an axis that some array may have; NumPy allows at most 64 axes."""
    result = integer("axis", value)
    if not -64 <= result < 64:
        raise np.exceptions.AxisError(f"axis must be between -64 and 63, got {shown(value)}")
    return result


def number(
    name: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
) -> float:
    """Return a finite number with low <= value <= high and value > above."""
    if type(value) is float and low <= value <= high and above < value < math.inf:
        return value  # the common case; -inf is not greater than any bound
    try:
        # float() would also parse text, which has no __float__, accept NumPy's dates and times, and
        # drop the imaginary part of its complex numbers and the mask of its masked ones.
        is_number = hasattr(value, "__float__") or hasattr(value, "__index__")
        kind = getattr(getattr(value, "dtype", None), "kind", "f")
        if not is_number or kind in "SUcmM" or isinstance(value, np.ma.MaskedArray):
            raise TypeError
        result = float(value)
    except OverflowError:
        result = math.inf
    except (RuntimeError, TypeError, ValueError):  # torch raises the first
        raise TypeError(f"{name} must be a real number, got {shown(value)}") from None
    if math.isfinite(result) and low <= result <= high and result > above:
        return result
    accepted = "finite"
    if high < math.inf:
        accepted = f"in [{low:g}, {high:g}]"
    elif low > -math.inf:
        accepted = f"finite and at least {low:g}"
    elif above > -math.inf:
        accepted = f"finite and greater than {above:g}"
    raise ValueError(f"{name} must be {accepted}, got {shown(value)}")


def weights(name: str, value: Any, *, ndim: int | None) -> Array | None:
    """Return a read-only float64 copy of weights, all finite and at least 0."""
    if value is None:
        return None
    result = _kept(name, value)
    if ndim is not None and result.ndim != ndim:
        raise ValueError(f"{name} must have one number per class, got shape {result.shape}")
    largest_weight(name, result)
    return result


def share(name: str, value: Any) -> float | Array | None:
    """Return None, a number in [0, 1], or a read-only array of such numbers."""
    if value is None:
        return None
    if (array := as_array(name, value)).ndim == 0:
        if array == -1:
            raise ValueError(f"{name} must be in [0, 1] or None for no weights, got {shown(value)}")
        return number(name, value, low=0, high=1)
    result = _kept(name, value)
    unit_interval(name, result, "be in [0, 1]")
    return result


def _kept(name: str, value: Any) -> Array:
    """Return a read-only float64 copy of an array option."""
    with np.errstate(all="ignore"):  # a long double, or a signalling NaN
        result: Array = np.array(real(name, value), dtype=np.float64, order="C")
    result += 0.0  # options are compared by their bits, and -0.0 is 0.0
    result.flags.writeable = False
    return result.view()  # which, unlike the owner of the memory, cannot be made writable again


def weights_fit(name: str, value: Array | None, classes: int) -> None:
    if value is not None and value.shape[0] != classes:
        raise ValueError(
            f"{name} has {value.shape[0]} weights, but the logits have {classes} classes"
        )


# Logits and targets -------------------------------------------------------------------------------


def logits(value: npt.ArrayLike) -> Array:
    array = as_array("logits", value)
    if not is_logits(array):
        raise TypeError(f"logits must be {ACCEPTED_LOGITS}, got {array.dtype}")
    return array


def class_axis(logits: Array, axis: int) -> int:
    """Return the class axis, counted from 0."""
    if logits.ndim == 0:
        raise np.exceptions.AxisError("logits must have a class axis, got a scalar")
    if not -logits.ndim <= axis < logits.ndim:
        raise np.exceptions.AxisError(
            f"axis={shown(axis)} is out of bounds for logits of shape {logits.shape}"
        )
    return axis % logits.ndim


def softmax_target(
    value: npt.ArrayLike, logits: Array, axis: int, *, probabilities: bool
) -> tuple[Array, bool]:
    """Return the target, and whether it holds labels (else probabilities)."""
    array = as_array("target", value)
    shape = logits.shape[:axis] + logits.shape[axis + 1 :]
    if array.size == 0 and isinstance(value, list | tuple):
        array = array.astype(np.int64)  # an empty list has no type of its own
    if probabilities and array.dtype.kind in "iub" and array.shape == logits.shape:
        return array, False  # one-hot
    if array.dtype.kind in "iu":
        if array.shape == shape:
            return array, True
        hint = ""
        if logits.ndim > 1 and axis != 1 and array.shape == logits.shape[:1] + logits.shape[2:]:
            hint = f" (did you mean axis=1? axis is {axis - logits.ndim})"
        elif array.shape == (*logits.shape[:axis], 1, *logits.shape[axis + 1 :]):
            hint = " (drop the axis of length 1: target.squeeze(axis))"
        elif logits.ndim == 1 and array.ndim == 1:
            hint = " (logits of a batch have shape (rows, classes))"
        unfit_target(array, logits, f": class labels must have shape {shape}{hint}")
    if probabilities and is_float(array) and array.shape == logits.shape:
        return array, False
    accepted = f"integer class labels of shape {shape}"
    if probabilities:
        accepted = f"integer class labels, or probabilities or one-hot of shape {logits.shape}"
    if probabilities and (is_float(array) or array.dtype.kind == "b") and array.shape != shape:
        unfit_target(array, logits, f": it must be {accepted}")
    raise TypeError(f"target must be {accepted}, got {array.dtype} of shape {array.shape}")


def unfit_target(target: Array, logits: Array, accepted: str = "") -> NoReturn:
    raise ValueError(
        f"target of shape {target.shape} does not fit logits of shape {logits.shape}{accepted}"
    )


def labels_in_range(labels: Array, classes: int) -> None:
    bad = (labels < 0) | (labels >= classes)
    if bad.any():
        bad_label(labels, int(np.argmax(bad)), classes)


def bad_label(
    target: Array, flat_position: int, classes: int, ignore_index: int | None = None
) -> NoReturn:
    at = np.unravel_index(flat_position, target.shape)
    ignored = "" if ignore_index is None else f", and ignore_index is {ignore_index}"
    allowed = f"the labels of {classes} classes are 0 to {classes - 1}"
    if classes == 0:
        allowed = "there are no classes"
    raise IndexError(
        f"target holds the label {target[at]}{_position(at, 'target')}, but {allowed}{ignored}"
    )


def sigmoid_target(value: npt.ArrayLike, logits: Array) -> Array:
    array = as_array("target", value)
    if array.dtype.kind not in "iub" and not is_float(array):
        raise TypeError(f"target must be floating, integer or bool, got {array.dtype}")
    if array.shape != logits.shape:
        unfit_target(array, logits, ": they must have the same shape")
    return array


def unit_interval(name: str, array: Array, accepted: str = "lie in [0, 1]") -> None:
    wrong = ~((array >= 0) & (array <= 1))
    if wrong.any():
        bad_probability(name, array, first_true(wrong), accepted)


def bad_probability(
    name: str, array: Array, at: tuple[Any, ...], accepted: str = "lie in [0, 1]"
) -> NoReturn:
    raise ValueError(f"{name} must {accepted}, got {array[at]}{_position(at, name)}")


# Other arguments of a call ------------------------------------------------------------------------


def sample_weight(value: Any, shape: tuple[int, ...]) -> Array | None:
    """Return the weights broadcast to ``shape``, in their own dtype (long doubles as float64)."""
    if value is None:
        return None
    array = native_float(real("sample_weight", value))
    largest_weight("sample_weight", array, signed=True)
    return _broadcast("sample_weight", array, shape)


def positive_sum_of_weights(total: float) -> None:
    """Check the denominator of a mean."""
    if not total > 0:
        raise ValueError(
            f"the mean divides by the sum of the weights, which must be positive, got {total!r}:"
            " pass a normalizer, or use reduction='sum'"
        )


def where(value: Any, shape: tuple[int, ...], samples: tuple[int, ...] = ()) -> Array | None:
    """Return a mask broadcast to the logits; ``samples`` is the shape of a target of labels."""
    if value is None:
        return None
    array = as_array("where", value)
    if array.dtype.kind != "b":
        raise TypeError(f"where must be bool, got {array.dtype}")
    hint = ""
    if samples and array.shape == samples:
        hint = " (where masks classes; to leave out samples, use sample_weight or ignore_index)"
    return _broadcast("where", array, shape, hint)


def element_weight(name: str, value: Array | None, shape: tuple[int, ...]) -> Array | None:
    """Broadcast an array option to the logits."""
    return None if value is None else _broadcast(name, value, shape)


def normalizer(value: Any) -> float | None:
    return None if value is None else number("normalizer", value, above=0.0)


def grad_output(value: Any, shape: tuple[int, ...], reduction: str) -> float | Array:
    """Return a number, or an array of the loss's shape."""
    if value is None:
        return 1.0
    if isinstance(value, int):  # NumPy has no type for long ones
        return number("grad_output", value)
    array = real("grad_output", value)
    if array.ndim == 0:
        return float(array)
    if reduction != "none":
        raise ValueError(
            f"grad_output must be a scalar with reduction={reduction!r}, got shape {array.shape}"
        )
    if array.shape != shape:
        raise ValueError(f"grad_output must be a scalar or have shape {shape}, got {array.shape}")
    return array


# Outputs ------------------------------------------------------------------------------------------


def outputs(
    value: Any, count: int, logits: Array, inputs: Sequence[Array | None]
) -> tuple[Array | None, ...]:
    """Return ``count`` views of the arrays to write to; None means a new array."""
    if value is None:
        return (None,) * count
    if count == 1 and not isinstance(value, tuple):
        value = (value,)
    if not isinstance(value, tuple) or len(value) != count:
        accepted = "an array" if count == 1 else f"a tuple of {count} arrays"
        if not isinstance(value, tuple):
            raise TypeError(f"out must be {accepted}, got {type(value).__name__}")
        raise ValueError(f"out must be {accepted}, got a tuple of {len(value)}")
    views: list[Array | None] = []
    for array in value:
        view = array
        if array is not None:
            view = output(array, logits.shape, _output_types(logits), inputs, logits)
            if any(other is not None and _may_overlap(view, other) for other in views):
                raise ValueError("out: two of the arrays overlap")
        views.append(view)
    return tuple(views)


def loss_output(
    value: Any,
    reduction: str,
    shape: tuple[int, ...],
    dtype: Any,
    others: Sequence[Array | None],
) -> Array | None:
    """Return a view of the array for per-sample losses, which must not overlap the others."""
    if value is None:
        return None
    if reduction != "none":
        raise ValueError(f"loss_out needs reduction='none', but it is {reduction!r}")
    return output(value, shape, (dtype,), others, None, name="loss_out")


def output(
    value: Any,
    shape: tuple[int, ...],
    types: tuple[Any, ...],
    inputs: Sequence[Array | None],
    same: Array | None,
    name: str = "out",
) -> Array:
    """Check an array to write to, which may be exactly ``same``; return a plain view of it.

    A subclass may have misleading attributes; those of the view describe the memory.
    """
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {type(value).__name__}")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, which is not supported")
    array: Array = np.asarray(value).view()
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    if array.dtype.newbyteorder("=") not in types:
        accepted = " or ".join(str(t) for t in types)
        raise ValueError(f"{name} must be {accepted}, got {array.dtype}")
    if not array.flags.writeable:
        raise ValueError(f"{name} is read-only")
    if _overlaps_itself(array):
        raise ValueError(f"{name} overlaps itself: some of its elements share memory")
    for other in (same, *inputs):
        if other is None or not _may_overlap(array, other):
            continue
        if other is same and _is_same(array, other):
            continue
        accepted = "" if same is None else "; only out=logits itself is supported"
        raise ValueError(f"{name} overlaps another argument{accepted}")
    return array


def _output_types(logits: Array) -> tuple[Any, ...]:
    own = logits.dtype.newbyteorder("=")
    return (own, np.dtype(np.float32)) if logits.dtype.itemsize == 2 else (own,)


def _is_same(a: Array, b: Array) -> bool:
    return (
        a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
        and a.strides == b.strides
        and a.dtype == b.dtype
    )


def _may_overlap(a: Array, b: Array) -> bool:
    if a.size == 0 or b.size == 0 or not np.may_share_memory(a, b):
        return False
    max_work: Any = 10_000  # NumPy's own annotation allows only 0 and -1
    try:
        return np.shares_memory(a, b, max_work)
    except np.exceptions.TooHardError:
        return True


def _overlaps_itself(array: Array) -> bool:
    """Whether elements may share memory; exact for arrays made by slicing and transposing."""
    if array.size == 0:
        return False
    reach = array.dtype.itemsize
    axes = zip(array.strides, array.shape, strict=True)
    for stride, size in sorted((abs(stride), size) for stride, size in axes if size > 1):
        if stride < reach:
            return True
        reach = stride * size
    return False


# The machine --------------------------------------------------------------------------------------


def instruction_set(name: str, available: tuple[str, ...]) -> None:
    if name not in available:
        raise ImportError(
            f"FASTCE_ISA must be one of {', '.join(available)}, which this build and this processor"
            f" support, got {name}"
        )


def threads_of_environment(text: str) -> int:
    try:
        return at_least_one("the number of threads", int(text))
    except ValueError:
        given = shown(text)
        raise ValueError(f"FASTCE_NUM_THREADS must be a positive integer, got {given}") from None


# Arrays -------------------------------------------------------------------------------------------


def real(name: str, value: Any) -> Array:
    """Return an array of a real dtype. bfloat16, which NumPy lacks, is recognised by its name."""
    array = as_array(name, value)
    if array.dtype.kind not in "iub" and not is_float(array):
        raise TypeError(f"{name} must be real numbers, got {array.dtype}")
    return array


def is_float(array: Array) -> bool:
    wide = array.dtype.itemsize > 1  # one of ml_dtypes' 8-bit types is of kind "f"
    return (array.dtype.kind == "f" and wide) or array.dtype.name == "bfloat16"


def is_logits(array: Array) -> bool:
    """Return whether an array has one of the dtypes `ACCEPTED_LOGITS`."""
    return is_float(array) and array.dtype.itemsize <= 8


def as_array(name: str, value: Any) -> Array:
    """Convert an argument to an array and return a view of it; masked arrays are rejected."""
    try:
        array = np.asanyarray(value)
    except ValueError as error:  # rows of different lengths
        raise ValueError(f"{name} cannot be converted to an array: {error}") from error
    except Exception as error:  # of the value itself, such as a tensor that requires a gradient
        error.add_note(f"{name} cannot be converted to an array")
        raise
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a masked array, which is not supported: pass its data and a weight"
        )
    array = np.asarray(array)
    if array.dtype.char == "g" and array.dtype.itemsize == 8:  # as on Windows and Apple silicon
        return array.view(np.dtype(np.float64).newbyteorder(array.dtype.byteorder))
    # A view of our own keeps the shape that is checked, even if another thread or the __array__ of
    # the next argument assigns to `array.shape`.
    return array.view()


def largest_weight(
    name: str, array: Array, accepted: str = "finite and at least 0", *, signed: bool = False
) -> float:
    """Return the largest magnitude of a weight; 0 if there are none."""
    array = layout.once(array)
    if array.size == 0:
        return 0.0
    with np.errstate(all="ignore"):  # a signalling NaN
        # If there is a NaN, it is both minimum and maximum; neither needs a temporary array.
        least, largest = array.min(), array.max()
        if (least > -np.inf if signed else least >= 0) and least <= largest < np.inf:
            return max(float(largest), -float(least))
        good = np.isfinite(array) & ((array >= 0) | signed)
    if not good.all():
        at = first_true(~good)
        accepted = "finite" if signed else accepted
        raise ValueError(f"{name} must be {accepted}, got {array[at]}{_position(at, name)}")
    return float(largest)


def _broadcast(name: str, array: Array, shape: tuple[int, ...], hint: str = "") -> Array:
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        got = f"{name} of shape {array.shape}"
        raise ValueError(f"{got} does not broadcast to {shape}{hint}") from None


def first_true(wrong: Array) -> tuple[int, ...]:
    """Return the position of the first element that is true."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), wrong.shape))
