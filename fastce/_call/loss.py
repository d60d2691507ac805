"""The base class of the losses: values that can be called in three ways."""

from collections.abc import Callable
from dataclasses import fields
from functools import cache, lru_cache, partial
from operator import itemgetter
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastce._call import variants
from fastce._call.arguments import GRADIENT, HESSIAN, VALUE, Call
from fastce._call.layout import Array

Value = Any  # a Python float, or an array of losses if reduction="none"


class Loss:
    """Base of the losses, which are frozen dataclasses of their options.

    Losses compare and hash by value, can be pickled, and print as the call that creates them.
    """

    reduction: str
    largest_factor: float  # the largest weight in an array option, else 1; T² for a divergence
    _family: ClassVar[Callable[..., tuple[Any, ...]]]
    _kind: ClassVar[str]  # the name that the kernels know the loss by
    _numbers: dict[str, Any]  # the options that kernels take as they are: all but arrays

    def _keep(self, **options: Any) -> None:
        """Store the options as the checks returned them."""
        numbers, maxima = {}, []
        for name, value in options.items():
            if not isinstance(value, np.ndarray):
                if value is not None:
                    numbers[name] = value
            elif value.size:
                maxima.append(float(value.max()))
        numbers["largest_factor"] = largest = max(maxima) if maxima else 1.0
        self.__dict__.update(options, largest_factor=largest, _numbers=numbers, _kernels={})

    def _new_kernel(self, core: Any) -> Any:
        """Return this loss in the form that the kernels of a variant take."""
        raise NotImplementedError

    def kernel(self) -> Any:
        """Return this loss in the form that the kernels in use take; it is made once."""
        core = variants.core  # read once: another thread may choose another variant
        kernels: dict[Any, Any] = self.__dict__["_kernels"]
        found = kernels.get(core)
        if found is None:  # if several threads make one, all use the first
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
        """Return only the loss. The arguments are those of `value_grad_hess`."""
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
        """Return the loss and its gradient with respect to the logits.

        The arguments are those of `value_grad_hess`.
        """
        found: tuple[Value, Array] | None = self.kernel().evaluate(
            GRADIENT, logits, target, sample_weight, where, normalizer, grad_output, out, loss_out
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
        """Return the loss, its gradient and the diagonal of its Hessian.

        The derivatives are those of the returned loss with respect to the logits. The derivatives
        of a mean are therefore divided by its denominator, too. All three results are computed in
        one pass. Errors are raised before any output is written.

        Parameters
        ----------
        logits : array_like of float16, bfloat16, float32 or float64
            Any shape and strides. Softmax losses need a class axis. 16-bit logits are converted to
            float32 for the computation.
        target : array_like
            For softmax losses, integer class labels, with the shape of the logits without the class
            axis. Softmax cross-entropy also accepts an array of the logits' shape: probabilities,
            which need not sum to 1, or an integer or bool one-hot encoding. For
            `SoftmaxKLDivergence`, the teacher's logits, of the same shape. For sigmoid losses,
            numbers in [0, 1] of the logits' shape.
        sample_weight : array_like, optional
            Finite weights that broadcast to the shape of the labels (sigmoid losses: of the
            logits). If a weight is 0, the logits and probabilities of that sample are not read, but
            its class label must still be valid. Weights may be negative, but the weights of a mean
            must have a positive sum. If all of them are 0, the mean is NaN.
        where : array_like of bool, optional
            A mask that broadcasts to the logits. For softmax losses, False masks a class of a
            sample: it has probability 0, and label smoothing is spread over the other classes. For
            sigmoid losses, False leaves an element out.
        normalizer : float > 0, optional
            Replaces the denominator of the mean; other reductions ignore it. With the denominator
            of the whole batch, microbatches add up to the batch.
        grad_output : float or array_like, optional
            The upstream gradient, by which the derivatives are multiplied: a scalar, or an array
            of the loss's shape if ``reduction="none"``.
        out : tuple of two arrays or None, optional
            Where to write gradient and Hessian (`value_and_grad`: an array for the gradient):
            arrays of the logits' shape and dtype, or float32 for 16-bit logits. `logits` itself is
            allowed; any other overlap with an input is not.
        loss_out : array, optional
            Where to write the per-sample losses of ``reduction="none"``, in their shape and dtype.

        Returns
        -------
        loss : float or array
            In nats. A Python float, accumulated in float64. With ``reduction="none"``, an array of
            float64 for float64 logits, and of float32 otherwise.
        grad, hess : array
            With the shape, dtype (in native byte order) and memory order of the logits, unless
            `out` says otherwise.

        Raises
        ------
        TypeError
            An argument has a type that is not accepted.
        ValueError
            A shape, a weight, a probability or an output array does not fit, or the weights of a
            mean have no positive sum.
        IndexError
            A label is neither a class nor `ignore_index`.

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
            HESSIAN, logits, target, sample_weight, where, normalizer, grad_output, out, loss_out
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
        # A pickle names only the public class, because modules of this package may move.
        return partial(type(self), **self._options()), ()


@cache
def _options_of(cls: Any) -> Callable[[dict[str, Any]], tuple[Any, ...]]:
    return itemgetter(*(field.name for field in fields(cls)))


def _new(cls: Any, options: tuple[Any, ...]) -> Any:
    return cls(**{field.name: value for field, value in zip(fields(cls), options, strict=True)})


@lru_cache(maxsize=64, typed=True)  # a loss is a value: one object serves all equal calls
def _kept(cls: Any, *options: Any) -> Any:
    # Arrays and tensors may change, but the hash of a tensor, or of a tuple with one, would not.
    if not {type(value) for value in options} <= {int, float, str, bool, type(None)}:
        raise TypeError
    return _new(cls, options)


def once(cls: Any, given: dict[str, Any]) -> tuple[Value, Array]:
    """Make a loss and return its value and gradient; `given` has its options and its arguments."""
    options = _options_of(cls)(given)
    try:
        loss = _kept(cls, *options)
    except (TypeError, ValueError):  # also if an option has no hash, or is wrong
        loss = None
    if loss is None:  # not above, where its errors would come with the one that was caught
        loss = _new(cls, options)
    result: tuple[Value, Array] = loss.value_and_grad(
        given["logits"],
        given["target"],
        sample_weight=given["sample_weight"],
        where=given["where"],
        normalizer=given["normalizer"],
        grad_output=given["grad_output"],
        out=given["out"],
        loss_out=given["loss_out"],
    )
    return result
