"""The losses as JAX functions on the CPU: for ``jit``, ``grad``, ``jvp``, ``vmap``, ``shard_map``.

Without a derivative, only the value is computed. With one, value and gradient are computed in one
pass over the logits. The kernels read JAX's arrays in place and write into XLA's buffers.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from itertools import count
from typing import Any

import numpy as np

from fastce import losses
from fastce._call import checks, checks_bridges, layout
from fastce._call.elements import checked_elements
from fastce._call.layout import Array
from fastce._call.loss import Loss
from fastce._call.rows import checked_rows

try:
    import jax
    import jax.numpy as jnp
    from jax.custom_derivatives import SymbolicZero
except ImportError as error:
    checks_bridges.missing_host("jax", "jax", error)

from fastce.jax import _ffi

__all__ = ["function"]

# Compiled code knows a loss by the name of its class.
LOSSES = {name: getattr(losses, name) for name in losses.__all__}


def function(loss: Loss) -> Callable[..., Any]:
    """Return a loss as a JAX function ``f(logits, target, sample_weight=None, where=None)``.

    The function has first derivatives with respect to the logits, in forward mode (``jvp``,
    ``linearize``, ``jacfwd``) and in reverse mode (``grad``, ``vjp``, ``jacrev``). Second
    derivatives, and derivatives with respect to other arguments, raise an error. Only arrays on the
    CPU are supported. Under ``vmap`` the kernels run once per element of the mapped axis, so
    ``reduction="none"`` on the whole batch is faster.

    Parameters
    ----------
    loss : any loss of fastce
        With its options, including the reduction. Compiled and exported code contains the loss.

    Returns
    -------
    callable
        It takes the arguments of ``loss(logits, target, sample_weight=..., where=...)``: JAX or
        NumPy arrays, lists and numbers. It returns an array of shape (), or the losses with
        ``reduction="none"``: float64 for float64 logits, otherwise float32. Wrong shapes and types
        raise while the function is traced. Compiled code cannot raise: **an invalid label,
        probability or weight gives NaN**, for the loss and the gradient of the whole call.
        Functions compare, hash and pickle by their loss.

    Raises
    ------
    TypeError
        `loss` is not a loss of this library. The function raises the errors of the loss for shapes
        and types, and TypeError for anything that is not an array, list or number.
    NotImplementedError, ValueError
        Raised by the function, for a second derivative, or for a derivative with respect to target
        or weights.

    Examples
    --------
    >>> import jax
    >>> import fastce.jax
    >>> ce = fastce.jax.function(fastce.SoftmaxCrossEntropy())
    >>> logits = jax.numpy.array([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])
    >>> loss, grad = jax.jit(jax.value_and_grad(ce))(logits, jax.numpy.array([0, 2]))
    >>> print(f"{loss:.6f}", grad.shape)
    0.160927 (2, 3)
    >>> print(ce(logits, jax.numpy.array([0, 3])))
    nan
    """
    if LOSSES.get(type(loss).__name__) is not type(loss):  # a derived class has no registered name
        checks_bridges.not_a_loss(loss, "one of the library's")
    return _Function(loss)


class _Function:
    """A loss as a JAX function. Like losses, functions compare by value."""

    def __init__(self, loss: Loss) -> None:
        self.loss = loss
        self._evaluate = _differentiable(loss)

    def __call__(
        self, logits: Any, target: Any, sample_weight: Any = None, where: Any = None
    ) -> Any:
        arrays = {"logits": _array("logits", logits), "target": _array("target", target)}
        if sample_weight is not None:
            arrays["sample_weight"] = _array("sample_weight", sample_weight)
        if where is not None:
            arrays["where"] = _array("where", where)
        # Shapes and types, which are known while JAX traces.
        check: Any = checked_rows if hasattr(self.loss, "axis") else checked_elements
        check(self.loss, **_outlines(arrays))
        return self._evaluate(arrays)

    def __repr__(self) -> str:
        return f"fastce.jax.function({self.loss!r})"

    def __eq__(self, other: object) -> bool:
        return self.loss == other.loss if isinstance(other, _Function) else NotImplemented

    def __hash__(self) -> int:
        return hash((_Function, self.loss))

    def __reduce__(self) -> tuple[Any, ...]:
        return function, (self.loss,)


# Derivatives --------------------------------------------------------------------------------------


@lru_cache
def _differentiable(loss: Any) -> Any:
    """Return the loss as a function of its arguments by name, with its derivative.

    The derivative along a tangent is the gradient's inner product with it. JAX transposes that for
    reverse mode. Outside of jit the function is compiled by itself, and kept for each loss.
    """

    def fastce_value(arrays: dict[str, Any]) -> Any:
        return _call(loss, False, arrays)[0]

    def fastce_value_and_grad(arrays: dict[str, Any]) -> Any:
        return _call(loss, True, arrays)

    value, value_and_grad = jax.custom_jvp(fastce_value), jax.custom_jvp(fastce_value_and_grad)

    def derivative(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
        (arrays,), (tangent,) = primals, tangents
        for name in arrays:
            if name != "logits" and not _is_constant(tangent[name]):
                checks_bridges.constant_in_jax(name)
        result, grad = value_and_grad(arrays)
        slope = grad.astype(result.dtype) * tangent["logits"].astype(result.dtype)
        if loss.reduction != "none":
            slope = slope.sum()
        elif hasattr(loss, "axis"):
            slope = slope.sum(loss.axis)
        return result, _ffi.sharded_like(slope, result)

    def second_derivative(primals: tuple[Any], tangents: tuple[Any]) -> tuple[Any, Any]:
        checks_bridges.no_second_derivative_in_jax()

    value.defjvp(derivative, symbolic_zeros=True)
    value_and_grad.defjvp(second_derivative)
    return jax.jit(value, inline=True)


def _is_constant(tangent: Any) -> bool:
    return isinstance(tangent, SymbolicZero) or tangent.dtype == jax.dtypes.float0


# Calls of the kernels -----------------------------------------------------------------------------


def _call(loss: Loss, with_grad: bool, arrays: dict[str, Any]) -> Any:
    logits = arrays["logits"]
    shape = _shape_of_losses(loss, logits.shape)
    results: list[tuple[tuple[int, ...], Any]] = [
        (shape, np.float64 if logits.dtype.itemsize == 8 else np.float32)
    ]
    if with_grad:
        # The mean's gradient may be below the range of float16, until the chain rule scales it.
        small = logits.dtype == np.float16
        results.append((logits.shape, np.float32 if small else logits.dtype))
    names = tuple(sorted(arrays))
    text = _description(loss, logits.ndim, names)
    return _ffi.call(text, results, *(arrays[name] for name in names))


@lru_cache
def _description(loss: Loss, rank: int, names: tuple[str, ...]) -> str:
    """Return a call as text that any process can read: the loss and its arguments."""
    options = {
        name: {"shape": value.shape, "values": value.ravel().tolist()}
        if isinstance(value, np.ndarray)
        else value
        for name, value in loss._options().items()
    }
    call = {"loss": type(loss).__name__, "options": options, "rank": rank, "arguments": names}
    return json.dumps(call)


def _option(value: Any) -> Any:
    if isinstance(value, dict):
        return np.reshape(np.array(value["values"], np.float64), value["shape"])
    return value


def _read(description: str) -> _ffi.Function:
    call = json.loads(description)
    try:
        loss: Any = LOSSES[call["loss"]](**{k: _option(v) for k, v in call["options"].items()})
    except (KeyError, TypeError, ValueError) as error:
        checks_bridges.unknown_exported_loss(call["loss"], call["options"], error)
    names, rank = call["arguments"], call["rank"]

    def evaluate(arrays: list[Array], outs: list[Array]) -> None:
        """Write loss and, if there is room for it, gradient; a vmap's axes come first."""
        if arrays[0].ndim > rank:
            for i in range(len(arrays[0])):
                at = (i, ...)  # a view, even if no axis is left
                evaluate([array[at] for array in arrays], [out[at] for out in outs])
            return
        given = dict(zip(names, arrays, strict=True))
        if loss.reduction == "none":
            given["loss_out"] = outs[0]
        try:
            if len(outs) > 1:
                value, _ = loss.value_and_grad(**given, out=outs[1])
            else:
                value = loss(**given)
            if loss.reduction != "none":
                with np.errstate(over="ignore"):  # it may be beyond the range of float32
                    outs[0][...] = value
        except (IndexError, ValueError):  # the shapes fit, so the values are wrong
            for out in outs:
                out[...] = np.nan

    return evaluate


_ffi.read_functions(_read)


# Arguments ----------------------------------------------------------------------------------------


def _array(name: str, value: Any) -> Any:
    """Return an argument of a loss as a JAX array."""
    if isinstance(value, np.ma.MaskedArray):
        checks.as_array(name, value)
    if value is None or isinstance(value, str | bytes):  # JAX interprets these in its own way
        checks_bridges.not_a_jax_array(name, value)
    try:
        array: Any = jnp.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:
        checks_bridges.not_a_jax_array(name, value, error)
    if jnp.issubdtype(array.dtype, jax.dtypes.extended):
        checks_bridges.not_a_jax_array(name, value)
    return array


def _shape_of_losses(loss: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    if loss.reduction != "none":
        return ()
    if not hasattr(loss, "axis"):
        return shape
    axis = loss.axis % len(shape)
    return shape[:axis] + shape[axis + 1 :]


def _outlines(arrays: dict[str, Any]) -> dict[str, Array]:
    # A number that is no other size stands in for each size that export leaves open.
    sizes: dict[Any, int] = {n: n for x in arrays.values() for n in x.shape if isinstance(n, int)}
    unused = (number for number in count(1009) if number not in sizes)
    outlines = {}
    for name, array in arrays.items():
        shape = [sizes[n] if n in sizes else sizes.setdefault(n, next(unused)) for n in array.shape]
        outlines[name] = layout.stand_in(shape, array.dtype)
    return outlines
