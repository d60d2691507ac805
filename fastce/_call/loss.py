"""What all losses share: they are values, and they are called in three ways."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache, partial
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastce._call import variants
from fastce._call.arguments import GRADIENT, HESSIAN, VALUE, Call

Array = npt.NDArray[Any]
Value = Any  # a Python float, or with reduction="none" an array of the losses


class Loss:
    """Base of the losses, which are frozen dataclasses of their options.

    They compare and hash by value, pickle, and print as the call that makes them.
    """

    reduction: str
    largest_factor: float  # of an array option, which are weights; 1 without one
    _family: ClassVar[Callable[..., tuple[Any, ...]]]

    def _keep(self, **options: Any) -> None:
        """Set the options to what the checks have made of them."""
        arrays = [x for x in options.values() if isinstance(x, np.ndarray) and x.size]
        largest = max((float(x.max()) for x in arrays), default=1.0)
        self.__dict__.update(options, largest_factor=largest, _kernels={})

    def _new_kernel(self, core: Any) -> Any:
        """Return this loss as the kernels of a variant take it."""
        raise NotImplementedError

    def kernel(self) -> Any:
        """Return this loss as the kernels in use take it; made once."""
        core = variants.core  # read once: another thread may choose another variant
        kernels: dict[Any, Any] = self.__dict__["_kernels"]
        found = kernels.get(core)
        if found is None:  # of several threads that make one, all take the first
            found = kernels.setdefault(core, self._new_kernel(core))
        return found

    # The three ways to call ---------------------------------------------------------------------

    def __call__(
        self,
        logits: npt.ArrayLike,
        target: npt.ArrayLike,
        *,
        sample_weight: npt.ArrayLike | None = None,
        where: npt.ArrayLike | None = None,
        normalizer: float | None = None,
        loss_out: Array | None = None,
    ) -> Value:
        """Return the loss alone; see `value_grad_hess`."""
        result = self.kernel().evaluate(
            VALUE, logits, target, sample_weight, where, normalizer, None, None, loss_out
        )
        if result is not None:
            return result
        call = Call(sample_weight, where, normalizer, loss_out=loss_out)
        return self._family(self, VALUE, logits, target, call)[0]

    def value_and_grad(
        self,
        logits: npt.ArrayLike,
        target: npt.ArrayLike,
        *,
        sample_weight: npt.ArrayLike | None = None,
        where: npt.ArrayLike | None = None,
        normalizer: float | None = None,
        grad_output: npt.ArrayLike | None = None,
        out: Any = None,
        loss_out: Array | None = None,
    ) -> tuple[Value, Array]:
        """Return the loss and its gradient by the logits, in one pass; see `value_grad_hess`."""
        found: tuple[Value, Array] | None = self.kernel().evaluate(
            GRADIENT,
            logits,
            target,
            sample_weight,
            where,
            normalizer,
            grad_output,
            out,
            loss_out,
        )
        if found is not None:
            return found
        call = Call(sample_weight, where, normalizer, grad_output, out, loss_out)
        loss, grad = self._family(self, GRADIENT, logits, target, call)
        return loss, grad

    def value_grad_hess(
        self,
        logits: npt.ArrayLike,
        target: npt.ArrayLike,
        *,
        sample_weight: npt.ArrayLike | None = None,
        where: npt.ArrayLike | None = None,
        normalizer: float | None = None,
        grad_output: npt.ArrayLike | None = None,
        out: Any = None,
        loss_out: Array | None = None,
    ) -> tuple[Value, Array, Array]:
        """Return the loss, its gradient and the diagonal of its Hessian by the logits, in one pass.

        Parameters
        ----------
        logits : array_like of float16, bfloat16, float32 or float64
            Any shape, any strides; softmax losses need a class axis. 16-bit logits are computed in
            float32.
        target : array_like
            Softmax losses: integer labels of the logits' shape less the class axis, or (softmax
            cross-entropy) probabilities of the logits' shape, or an integer or bool one-hot. They
            need not sum to 1. Sigmoid losses: numbers in [0, 1] of the logits' shape.
        sample_weight : array_like, optional
            Finite; broadcasts to the labels' shape, or to the logits' shape for sigmoid losses.
            Logits and target of a sample of weight 0 are not used. Weights may be negative; those
            of a mean must have a positive sum.
        where : array_like of bool, optional
            Broadcasts to the logits. False masks a class of a sample for softmax losses: it has
            probability 0 and takes no label smoothing. It leaves out an element for sigmoid losses.
        normalizer : float > 0, optional
            Replaces the mean's denominator; microbatches with that of the batch add up to it.
        grad_output : float or array_like, optional
            Chain-rule factor of the derivatives: a scalar, or of the loss's shape when
            ``reduction="none"``.
        out : array or tuple of arrays, optional
            Where to write the derivatives: of the logits' shape and dtype (or float32, for 16-bit
            logits). It may be `logits` itself, and must overlap no other input.
        loss_out : array, optional
            Where to write the single losses of ``reduction="none"``: of their shape and dtype.

        Returns
        -------
        loss : float or array
            In nats. A Python float, accumulated in float64; with ``reduction="none"`` an array,
            float64 for float64 logits, else float32.
        grad, hess : array
            Of the logits' shape, dtype and memory order, unless `out` says otherwise.

        Raises
        ------
        TypeError
            An argument is of a type that is not accepted.
        ValueError
            A shape, a weight, a probability or an output does not fit, or the weights of a mean
            have no positive sum. No output was written then.
        IndexError
            A label is neither a class nor `ignore_index`. No output was written then.

        Examples
        --------
        >>> import numpy as np
        >>> import fastce
        >>> logits = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
        >>> loss, grad, hess = fastce.SoftmaxCrossEntropy().value_grad_hess(logits, [2, 2])
        >>> round(loss, 6)
        1.407606
        >>> grad.shape, hess.shape
        ((2, 3), (2, 3))
        """
        found: tuple[Value, Array, Array] | None = self.kernel().evaluate(
            HESSIAN,
            logits,
            target,
            sample_weight,
            where,
            normalizer,
            grad_output,
            out,
            loss_out,
        )
        if found is not None:
            return found
        call = Call(sample_weight, where, normalizer, grad_output, out, loss_out)
        loss, grad, hess = self._family(self, HESSIAN, logits, target, call)
        return loss, grad, hess

    # Values ---------------------------------------------------------------------------------------

    def _options(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]

    def __repr__(self) -> str:
        given = []
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                value = value.tolist()
            if value != field.default or type(value) is list:
                given.append(f"{field.name}={value!r}")
        return f"{type(self).__name__}({', '.join(given)})"

    def _key(self) -> tuple[Any, ...]:
        return tuple(
            (value.shape, value.tobytes()) if isinstance(value, np.ndarray) else value
            for value in self._options().values()
        )

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self), self._key()))

    def __reduce__(self) -> tuple[Any, ...]:
        # By the public name of the class alone: modules of this package may move.
        return partial(type(self), **self._options()), ()


def one_shot(cls: type[Loss], name: str) -> Callable[..., tuple[Value, Array]]:
    """Return the function that makes a loss and takes its value and gradient at once.

    Its options, arguments and documentation are those of the class.
    """
    options = inspect.signature(cls).parameters
    arguments = list(inspect.signature(cls.value_and_grad).parameters.values())[1:]  # less self
    made = lru_cache(maxsize=64, typed=True)(cls)  # a loss is a value: one serves all equal calls

    def function(logits: npt.ArrayLike, target: npt.ArrayLike, **given: Any) -> tuple[Value, Array]:
        chosen = {key: given.pop(key) for key in options if key in given}
        try:
            loss = made(**chosen)
        except TypeError:  # an array, which has no hash, or an option of the wrong type
            loss = cls(**chosen)
        return loss.value_and_grad(logits, target, **given)

    function.__name__ = function.__qualname__ = name
    function.__module__ = cls.__module__
    function.__doc__ = _ONE_SHOT.format(
        name=name, cls=cls.__name__, target="[0, 1]" if "axis" in options else "[[1, 0], [1, 1]]"
    )
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [*arguments[:2], *options.values(), *arguments[2:]], return_annotation=tuple[Value, Array]
    )
    return function


_ONE_SHOT = """Return the loss and its gradient, in one call: `{cls}` for one use.

    The formula, and the meaning of the options, are those of `{cls}`.

    Parameters
    ----------
    logits, target : array_like
        As for `{cls}.value_and_grad`.
    **options
        The options of `{cls}`, and the keyword arguments of its `value_and_grad`.

    Returns
    -------
    loss : float or array
        In nats; an array with ``reduction="none"``.
    grad : array
        Of the logits' shape and dtype.

    Raises
    ------
    TypeError, ValueError, IndexError
        As the class and its method raise them.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> loss, grad = fastce.{name}(np.zeros((2, 2)), {target})
    >>> loss > 0, grad.shape
    (True, (2, 2))
    """
