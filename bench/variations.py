"""What `bench.cliffs` times: the plain call of each size and type, and its variations.

A variation's bound is what its arithmetic and memory may cost, as a multiple of the plain call. A
line added to one of the functions below is one more variation that is timed, checked and reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np

import fastce
from bench.cells import LOSSES
from bench.problems import floating_dtype

Array = np.ndarray[Any, Any]
TYPES = ("float32", "float64", "float16", "bfloat16")
AGAINST_FLOAT32 = {"float64": 3.5, "float16": 1.5, "bfloat16": 1.5}
GAMMAS = {0.0: 2.0, 0.5: 3.0, 1.0: 2.0, 1.5: 3.0, 2.0: 2.0, 3.0: 2.5, 5.0: 2.5}
METHODS = {1: "__call__", 2: "value_and_grad", 3: "value_grad_hess"}


@dataclass(frozen=True, eq=False)
class Variation:
    """One call of a function of the package, or of a loss object that is made once."""

    name: str
    bound: float
    operation: str
    arguments: tuple[Any, ...]
    given: dict[str, Any] = field(default_factory=dict)  # options of the loss or of the call
    results: int = 2
    one_shot: bool = False

    def prepare(self) -> Callable[[], Any]:
        """Return the call that is timed."""
        given = dict(self.given)
        if self.operation == "row_statistics":
            function = row_statistics
        elif self.operation not in LOSSES or self.one_shot:
            function = getattr(fastce, self.operation)
        else:
            kind = LOSSES[self.operation]
            options = {f.name: given.pop(f.name) for f in fields(kind) if f.name in given}
            function = getattr(kind(**options), METHODS[self.results])
        return partial(function, *self.arguments, **given)


def row_statistics(logits: Array, target: Array) -> Any:
    """Read rows as `fastce.evaluation` does, but add nothing up."""
    kernel = fastce.SoftmaxCrossEntropy().kernel()
    return tuple(kernel.read_tokens(logits, target, statistics=True, checked=True)[3])


class Inputs:
    """The arrays of a plain call, and variations of it."""

    def __init__(self, operation: str, logits: Array, target: Array) -> None:
        self.operation, self.logits, self.target = operation, logits, target
        self.grad, self.hess = np.empty_like(logits), np.empty_like(logits)
        self.rng = np.random.default_rng(1)

    def vary(
        self, name: str, bound: float, *, results: int = 2, one_shot: bool = False, **changes: Any
    ) -> Variation:
        """Return the plain call with ``changes`` to its arguments or to its options."""
        operation = changes.pop("operation", self.operation)
        arguments = changes.pop("logits", self.logits), changes.pop("target", self.target)
        changes.setdefault("out", (None, self.grad, (self.grad, self.hess))[results - 1])
        if changes["out"] is None:
            del changes["out"]
        return Variation(name, bound, operation, arguments, changes, results, one_shot)

    def function(self, name: str, bound: float, **given: Any) -> Variation:
        return Variation(name, bound, name, (self.logits,), given)

    def weights(self, *shape: int) -> Array:
        return self.rng.uniform(0.5, 2, shape)

    def changed(self, change: Callable[[Array], Array]) -> Array:
        """Return changed logits of the same type; ``change`` gets them in float64."""
        return change(self.logits.astype(np.float64)).astype(self.logits.dtype)


def swapped(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder())


def unaligned(array: Array) -> Array:
    result = np.empty(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    result[...] = array
    return result


def with_gaps(array: Array) -> Array:
    """Return the same rows, with five elements between one and the next."""
    rows, columns = array.shape
    result = np.zeros((rows, columns + 5), array.dtype)[:, :columns]
    result[...] = array
    return result


# Softmax losses -----------------------------------------------------------------------------------


def softmax_inputs(dtype: str, classes: int, elements: int) -> Inputs:
    """Hard labels and rows in C order: a multiple of 64 rows."""
    rng = np.random.default_rng(0)
    rows = max(elements // classes // 64 * 64, 64)
    logits = (3 * rng.standard_normal((rows, classes), np.float32)).astype(floating_dtype(dtype))
    return Inputs("softmax_cross_entropy", logits, rng.integers(0, classes, rows))


def softmax_variations(a: Inputs) -> Iterator[Variation]:
    yield a.vary("plain", 1.0)
    yield from softmax_results(a)
    yield from softmax_options(a)
    yield from softmax_batches(a)
    yield from probabilities(a)
    yield from masks(a)
    yield from softmax_values(a)
    yield from class_major(a)
    yield from softmax_layouts(a)
    yield from softmax_functions(a)
    yield from divergences(a)


def softmax_results(a: Inputs) -> Iterator[Variation]:
    focal = "softmax_focal_loss"
    yield a.vary("loss alone", 1.2, results=1)
    yield a.vary("single losses", 1.5, reduction="none")
    yield a.vary("in place", 1.3, logits=(z := a.logits.copy()), out=z)
    yield a.vary("Hessian", 2.5, results=3)
    yield a.vary("focal, Hessian", 3.0, results=3, operation=focal)
    yield a.vary("label smoothing, Hessian", 3.0, results=3, label_smoothing=0.1)


def softmax_options(a: Inputs) -> Iterator[Variation]:
    focal, weight = "softmax_focal_loss", a.weights(a.logits.shape[1])
    yield a.vary("class weight", 1.5, weight=weight)
    yield a.vary("label smoothing", 2.0, label_smoothing=0.1)
    yield a.vary("label smoothing, class weight", 2.0, label_smoothing=0.1, weight=weight)
    yield a.vary("z-loss", 1.7, z_loss=1e-4)
    yield a.vary("logit scale", 1.7, logit_scale=0.7)
    yield a.vary("softcap", 4.0, softcap=30.0)
    yield a.vary("focal", 1.7, operation=focal)
    yield a.vary("focal, alpha", 1.7, operation=focal, alpha=weight)
    yield a.vary("focal, gamma 0.5", 2.0, operation=focal, gamma=0.5)


def softmax_batches(a: Inputs) -> Iterator[Variation]:
    rows = len(a.logits)
    weight = a.weights(rows)
    ignored = np.where(a.rng.random(rows) < 0.1, -100, a.target)
    yield a.vary("labels of int32", 1.2, target=a.target.astype(np.int32))
    yield a.vary("labels of uint16", 1.2, target=a.target.astype(np.uint16))
    yield a.vary("10 % ignored", 1.5, target=ignored)
    yield a.vary("sample weight", 1.5, sample_weight=weight)
    yield a.vary("sample weight of float32", 1.5, sample_weight=weight.astype(np.float32))
    yield a.vary("grad_output of each row", 1.5, grad_output=weight, reduction="none")
    yield a.vary("normalizer", 1.3, normalizer=float(rows))


def probabilities(a: Inputs) -> Iterator[Variation]:
    q = a.rng.standard_exponential(a.logits.shape)
    q /= q.sum(axis=1, keepdims=True)
    one_hot = a.target[:, None] == np.arange(q.shape[1])
    yield a.vary("probabilities of the same type", 2.5, target=q.astype(a.logits.dtype))
    yield a.vary("probabilities of float32", 2.5, target=q.astype(np.float32))
    yield a.vary("probabilities of float64", 3.0, target=q)
    yield a.vary("probabilities, label smoothing", 3.0, target=q, label_smoothing=0.1)
    yield a.vary("one-hot of bool", 3.0, target=one_hot)


def masks(a: Inputs) -> Iterator[Variation]:
    classes = a.logits.shape[1]
    mask = a.rng.random(a.logits.shape) < 0.9
    np.put_along_axis(mask, a.target[:, None], True, axis=1)
    of_classes = np.arange(classes) < max(classes - 1, 1)
    seen = np.minimum(a.target, max(classes - 2, 0))
    yield a.vary("where, of elements", 2.5, where=mask)
    yield a.vary("where, of classes", 2.0, where=of_classes, target=seen)
    yield a.vary("where, label smoothing", 3.0, where=mask, label_smoothing=0.1)


def softmax_values(a: Inputs) -> Iterator[Variation]:
    at_target = np.arange(len(a.logits)), a.target
    far = 1000 if a.logits.dtype == np.float64 else 100  # beyond the safe range of its exponential

    def confident(z: Array) -> Array:
        z[at_target] += 30
        return z

    def some_far(z: Array) -> Array:
        z[::10] += far
        return z

    def holes(z: Array) -> Array:
        z[a.rng.random(z.shape) < 0.05] = -np.inf
        z[at_target] = 1
        return z

    yield a.vary("confident", 1.3, logits=a.changed(confident))
    yield a.vary("all out of range", 2.0, logits=a.changed(lambda z: z + far))
    yield a.vary("10 % out of range", 1.7, logits=a.changed(some_far))
    yield a.vary("5 % -inf", 2.0, logits=a.changed(holes))


def class_major(a: Inputs) -> Iterator[Variation]:
    focal = "softmax_focal_loss"
    z, grad, hess = (np.asfortranarray(array) for array in (a.logits, a.grad, a.hess))
    yield a.vary("class-major", 1.7, logits=z, out=grad)
    yield a.vary("class-major, focal", 2.2, logits=z, out=grad, operation=focal)
    yield a.vary("class-major, label smoothing", 2.5, logits=z, out=grad, label_smoothing=0.1)
    yield a.vary("class-major, Hessian", 3.0, logits=z, out=(grad, hess), results=3)
    yield a.vary("class-major into rows", 3.0, logits=z)
    yield a.vary("rows into class-major", 3.0, out=grad)
    planes = np.ascontiguousarray(a.logits.reshape(-1, 64, z.shape[1]).transpose(0, 2, 1))
    of_planes = {"logits": planes, "target": a.target.reshape(-1, 64), "axis": 1}
    yield a.vary("planes of 64", 1.7, out=np.empty_like(planes), **of_planes)


def softmax_layouts(a: Inputs) -> Iterator[Variation]:
    z = a.logits
    yield a.vary("rows with gaps", 1.5, logits=with_gaps(z))
    yield a.vary("rows backwards", 1.5, logits=z[::-1])
    yield a.vary("every second class", 4.0, logits=np.repeat(z, 2, axis=1)[:, ::2])
    yield a.vary("classes backwards", 4.0, logits=z[:, ::-1])
    yield a.vary("unaligned", 1.3, logits=unaligned(z))
    if z.dtype.kind == "f":
        yield a.vary("byte-swapped", 4.0, logits=swapped(z))


def softmax_functions(a: Inputs) -> Iterator[Variation]:
    yield a.function("softmax", 1.5, out=a.grad)
    yield a.function("log_softmax", 1.7, out=a.grad)
    yield a.function("logsumexp", 1.2)
    yield a.vary("token_log_probs", 1.7, operation="token_log_probs", out=None)
    yield a.vary("row statistics", 2.5, operation="row_statistics", out=None)


def divergences(a: Inputs) -> Iterator[Variation]:
    """Divergences from a teacher, whose logits are read, too."""
    kl, z = "softmax_kl_divergence", a.logits
    far = a.changed(lambda x: a.rng.permuted(x, axis=1))
    near = a.changed(lambda x: x + 0.1 * a.rng.standard_normal(x.shape))
    yield a.vary("divergence", 2.2, operation=kl, target=near)
    yield a.vary("divergence, far apart", 2.2, operation=kl, target=far)
    yield a.vary("divergence, temperature", 2.2, operation=kl, target=near, temperature=3.0)
    yield a.vary("divergence, loss alone", 2.2, operation=kl, target=near, results=1)
    yield a.vary("divergence, Hessian", 4.0, operation=kl, target=near, results=3)
    planes = {"logits": np.asfortranarray(z), "target": np.asfortranarray(near)}
    out = np.asfortranarray(a.grad)
    yield a.vary("divergence, class-major", 3.5, operation=kl, out=out, **planes)
    if z.dtype == np.float32:
        half = near.astype(np.float16)
        yield a.vary("divergence, teacher of float16", 2.7, operation=kl, target=half)


# Sigmoid losses -----------------------------------------------------------------------------------


def sigmoid_inputs(dtype: str, elements: int) -> Inputs:
    """Targets of 0 and 1 of the logits' type, in rows of 8."""
    rng = np.random.default_rng(0)
    shape, kind = (elements // 8, 8), floating_dtype(dtype)
    logits = (3 * rng.standard_normal(shape, np.float32)).astype(kind)
    return Inputs("bce_with_logits", logits, rng.integers(0, 2, shape).astype(kind))


def sigmoid_variations(a: Inputs) -> Iterator[Variation]:
    z, soft = a.logits, a.rng.random(a.logits.shape).astype(a.logits.dtype)
    yield a.vary("plain", 1.0)
    yield a.vary("loss alone", 1.1, results=1)
    yield a.vary("single losses", 2.5, reduction="none")
    yield a.vary("in place", 1.3, logits=(own := z.copy()), out=own)
    yield a.vary("Hessian", 2.5, results=3)
    yield a.vary("label smoothing", 1.5, label_smoothing=0.1)
    yield a.vary("pos_weight", 2.0, pos_weight=2.0)
    yield a.vary("pos_weight of columns", 2.5, pos_weight=a.weights(8))
    yield a.vary("soft targets", 1.2, target=soft)
    yield from sigmoid_targets(a)
    yield from sigmoid_batches(a)
    yield a.vary("far out", 1.5, logits=a.changed(lambda x: 100 * x))
    yield a.vary("every second element", 3.0, logits=np.repeat(z, 2, axis=1)[:, ::2])
    yield a.vary("backwards", 2.0, logits=z[::-1, ::-1])
    yield a.vary("unaligned", 1.3, logits=unaligned(z))
    yield from sigmoid_focal_variations(a, soft)


def sigmoid_targets(a: Inputs) -> Iterator[Variation]:
    bounds = {"bool": 1.5, "uint8": 1.5, "int32": 1.7, "int64": 2.0, "float32": 1.7, "float64": 2.0}
    for name, bound in bounds.items():
        yield a.vary(f"targets of {name}", bound, target=a.target.astype(np.float32).astype(name))


def sigmoid_batches(a: Inputs) -> Iterator[Variation]:
    weight = a.weights(*a.logits.shape)
    narrow = weight.astype(np.float32)
    yield a.vary("sample weight", 3.0, sample_weight=weight)
    yield a.vary("sample weight of float32", 2.5, sample_weight=narrow)
    yield a.vary("sample weight of rows", 2.5, sample_weight=weight[:, :1])
    yield a.vary("where", 2.0, where=a.rng.random(weight.shape) < 0.9)
    yield a.vary("grad_output of each element", 2.5, grad_output=narrow, reduction="none")
    yield a.vary("normalizer", 1.1, normalizer=float(weight.size))


def sigmoid_focal_variations(a: Inputs, soft: Array) -> Iterator[Variation]:
    focal, weight = "sigmoid_focal_loss", a.weights(*a.logits.shape).astype(np.float32)
    for gamma, bound in GAMMAS.items():
        yield a.vary(f"focal, gamma {gamma:g}", bound, operation=focal, gamma=gamma)
    yield a.vary("focal, soft targets", 4.0, operation=focal, target=soft)
    yield a.vary("focal, label smoothing", 4.0, operation=focal, label_smoothing=0.1)
    yield a.vary("focal, alpha of columns", 3.0, operation=focal, alpha=a.weights(8) / 2)
    yield a.vary("focal, sample weight", 3.0, operation=focal, sample_weight=weight)
    yield a.vary("focal, Hessian", 4.0, operation=focal, results=3)


# Small calls --------------------------------------------------------------------------------------


def small_variations(a: Inputs) -> Iterator[Variation]:
    """Calls of 64 x 10 in float32, which show the cost of what is done around the kernels."""
    z, rows, classes = a.logits, *a.logits.shape
    q, mask = np.full(z.shape, 1 / classes), np.ones(z.shape, bool)
    yield a.vary("plain", 1.0)
    yield a.vary("new array", 1.3, out=None)
    yield a.vary("one-shot function", 3.0, out=None, one_shot=True)
    yield a.vary("labels in a list", 6.0, target=a.target.tolist())
    yield a.vary("class weight", 1.5, weight=np.ones(classes))
    yield a.vary("label smoothing", 2.0, label_smoothing=0.1)
    yield a.vary("softcap", 4.0, softcap=30.0)
    yield a.vary("focal", 2.0, operation="softmax_focal_loss")
    yield a.vary("Hessian", 2.5, results=3)
    yield a.vary("sample weight", 2.0, sample_weight=a.weights(rows))
    yield a.vary("normalizer", 1.5, normalizer=rows)
    yield a.vary("grad_output", 1.7, grad_output=2.0)
    yield a.vary("where", 3.5, where=mask)
    yield a.vary("probabilities of float32", 3.0, target=q.astype(np.float32))
    yield a.vary("probabilities of float64", 3.5, target=q)
    yield a.vary("float16", 2.0, logits=z.astype(np.float16), out=None)
    yield a.vary("class-major", 3.0, logits=np.asfortranarray(z), out=None)
    yield a.vary("every second row", 3.0, logits=np.repeat(z, 2, axis=0)[::2])
    yield a.vary("rows with gaps", 3.0, logits=with_gaps(z))
    yield from small_elements(a, mask)
    yield a.function("softmax", 2.0)
    yield a.function("log_softmax", 2.0)
    yield a.function("logsumexp", 2.0)
    yield a.vary("token_log_probs", 3.0, operation="token_log_probs", out=None)


def small_elements(a: Inputs, mask: Array) -> Iterator[Variation]:
    y = (a.logits > 0).astype(np.float32)
    bce = {"operation": "bce_with_logits", "target": y}
    yield a.vary("BCE", 1.3, **bce)
    yield a.vary("BCE, where", 3.0, where=mask, **bce)
    yield a.vary("BCE, sample weight", 3.0, sample_weight=a.weights(len(y), 1), **bce)
    yield a.vary("BCE, pos_weight", 2.0, pos_weight=2.0, **bce)
    yield a.vary("BCE, targets of bool", 2.0, operation="bce_with_logits", target=y > 0)
    yield a.vary("sigmoid focal", 2.0, operation="sigmoid_focal_loss", target=y)


# All of them --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Calls with the same number of elements; the others are compared with the first."""

    name: str
    elements: int
    variations: list[Variation]


def groups(sections: Sequence[str], classes: Sequence[int], elements: int) -> Iterator[Group]:
    """Make the groups of some sections one after another, because they hold large arrays."""
    for count in classes if "softmax" in sections else ():
        for dtype in TYPES:
            a = softmax_inputs(dtype, count, elements)
            yield Group(f"{dtype}, {count} classes", a.logits.size, [*softmax_variations(a)])
    for count in classes if "types" in sections else ():
        makers = {dtype: partial(softmax_inputs, dtype, count, elements) for dtype in TYPES}
        yield group_of_types(f"types, {count} classes", makers)
    for dtype in TYPES if "sigmoid" in sections else ():
        a = sigmoid_inputs(dtype, elements)
        yield Group(f"{dtype}, sigmoid", a.logits.size, [*sigmoid_variations(a)])
    if "types" in sections:
        makers = {dtype: partial(sigmoid_inputs, dtype, elements) for dtype in TYPES}
        yield group_of_types("types, sigmoid", makers)
    if "small" in sections:
        a = softmax_inputs("float32", 10, 640)
        yield Group("64 x 10", a.logits.size, [*small_variations(a)])


def group_of_types(name: str, makers: dict[str, Callable[[], Inputs]]) -> Group:
    """Return the plain calls of all types, which are compared with that of float32."""
    inputs = {dtype: make() for dtype, make in makers.items()}
    variations = [a.vary(dtype, AGAINST_FLOAT32.get(dtype, 1.0)) for dtype, a in inputs.items()]
    return Group(name, inputs["float32"].logits.size, variations)
