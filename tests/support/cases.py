"""The one list of losses × options × inputs that the property tests are parametrised over.

A new loss, option or kind of input is tested by adding lines to CASES. Logits lie on a grid of 1/32
unless a case says otherwise: then their differences are exact in every precision, and the bound on
the error needs no allowance for the rounding of u − max u.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from batches import (
    all_ignored,
    booleans,
    class_mask,
    confident,
    confident_teacher,
    element_mask,
    element_weight,
    equal,
    excluding,
    far_apart,
    far_apart_teacher,
    hard,
    integers,
    labels,
    last_axis_mask,
    likeliest,
    near,
    not_normalised,
    off_grid,
    on_grid,
    one_hot_booleans,
    one_hot_integers,
    one_hot_labels,
    per_element,
    per_row,
    probabilities,
    right,
    row_weight,
    signed_element_weight,
    signed_row_weight,
    soft,
    some_classes,
    some_excluded,
    some_ignored,
    sparse_probabilities,
    teacher,
    value,
    weight_per_row,
)

from fastce import reference

DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
}
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
REDUCTIONS = ("mean", "sum", "none")
FUNCTIONS = {
    "SoftmaxCrossEntropy": "softmax_cross_entropy",
    "SoftmaxFocalLoss": "softmax_focal_loss",
    "SoftmaxKLDivergence": "softmax_kl_divergence",
    "BCEWithLogits": "bce_with_logits",
    "SigmoidFocalLoss": "sigmoid_focal_loss",
}
DISTILLATION = "SoftmaxKLDivergence"  # its target is of the logits' shape, and holds logits
LOSSES = tuple(loss for loss in FUNCTIONS if loss != DISTILLATION)
SOFTMAX = tuple(loss for loss in LOSSES if loss.startswith("Softmax"))
SIGMOID = tuple(loss for loss in LOSSES if loss not in SOFTMAX)


@dataclass(frozen=True)
class Batch:
    logits: np.ndarray
    target: np.ndarray
    call: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Case:
    """A loss with its options, and the maker of a batch for it.

    `logits(rng, shape)` makes the logits, `target(rng, logits, axis)` the target, and each value of
    `call` is a `maker(rng, logits, target, axis)` of the keyword argument of its name.
    """

    name: str
    loss: str
    target: Callable[..., np.ndarray]
    shape: tuple[int, ...] = (33, 10)
    logits: Callable[..., np.ndarray] = field(default=lambda rng, shape: on_grid(rng, shape))
    call: dict[str, Callable[..., Any]] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{FUNCTIONS[self.loss]}:{self.name}"

    @property
    def is_softmax(self) -> bool:
        return self.loss in SOFTMAX or self.loss == DISTILLATION

    @property
    def axis(self) -> int:
        return self.options.get("axis", -1)

    @property
    def reduction(self) -> str:
        return self.options.get("reduction", "mean")

    def batch(self, dtype: str = "float64", seed: int = 0) -> Batch:
        rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
        logits = np.asarray(self.logits(rng, self.shape)).astype(DTYPES[dtype])
        wide = logits.astype(np.float64)
        target = self.target(rng, wide, self.axis)
        if self.loss == DISTILLATION:
            target = target.astype(logits.dtype)
        call = {name: make(rng, wide, target, self.axis) for name, make in self.call.items()}
        return Batch(logits, target, call)

    def build(self) -> Any:
        """The public loss of this case."""
        import fastce

        return getattr(fastce, self.loss)(**self.options)

    def truth(self, batch: Batch) -> tuple[Any, np.ndarray, np.ndarray]:
        """Value, gradient and Hessian of the reference, in more precision than the logits have."""
        wider = np.longdouble if batch.logits.dtype.itemsize >= 8 else np.float64
        function = getattr(reference, FUNCTIONS[self.loss])
        logits = batch.logits.astype(wider)
        return function(logits, batch.target, **self.options, **batch.call)


# The list -----------------------------------------------------------------------------------------

CLASS_WEIGHT = np.array([0.25, 1.0, 2.0, 0.5, 0.75, 3.0, 1.5, 1.0, 0.0, 1.25])
CLASS_ALPHA = np.array([0.25, 1.0, 0.75, 0.5, 0.3, 1.0, 0.9, 1.5, 0.0, 0.6])
ALPHA = np.array([0.25, 1.0, 0.0, 0.5, 0.75, 0.125, 0.9, 0.999, 0.001, 0.5])
POS_WEIGHT = np.array([0.5, 1.0, 2.0, 3.0, 0.75, 1.25, 5.0, 1.0, 0.0, 1.5])


def cross_entropy(name, target=labels, **kwargs):
    own = {key: kwargs.pop(key) for key in ("shape", "logits", "call") if key in kwargs}
    return Case(name, "SoftmaxCrossEntropy", target, **own, options=kwargs)


def softmax_focal(name, target=labels, **kwargs):
    own = {key: kwargs.pop(key) for key in ("shape", "logits", "call") if key in kwargs}
    return Case(name, "SoftmaxFocalLoss", target, **own, options=kwargs)


def divergence(name, target=teacher, **kwargs):
    own = {key: kwargs.pop(key) for key in ("shape", "logits", "call") if key in kwargs}
    return Case(name, DISTILLATION, target, **own, options=kwargs)


def bce(name, target=hard, **kwargs):
    own = {key: kwargs.pop(key) for key in ("shape", "logits", "call") if key in kwargs}
    return Case(name, "BCEWithLogits", target, **own, options=kwargs)


def sigmoid_focal(name, target=hard, **kwargs):
    own = {key: kwargs.pop(key) for key in ("shape", "logits", "call") if key in kwargs}
    return Case(name, "SigmoidFocalLoss", target, **own, options=kwargs)


CASES = [
    cross_entropy("plain"),
    cross_entropy("sum", reduction="sum"),
    cross_entropy("none", reduction="none"),
    cross_entropy("off grid", logits=off_grid, reduction="none"),
    cross_entropy("confident", likeliest, logits=confident, reduction="none"),
    cross_entropy("confident and wrong", logits=confident, reduction="none"),
    cross_entropy("far apart", logits=far_apart, reduction="none"),
    cross_entropy("all equal", logits=equal, reduction="none"),
    cross_entropy("one class", shape=(9, 1)),
    cross_entropy("two classes", shape=(65, 2), reduction="none"),
    cross_entropy("many classes", shape=(3, 1009), reduction="none"),
    cross_entropy("many classes, logit scale", shape=(3, 1009), logit_scale=0.3),
    cross_entropy("ignored", some_ignored(-100)),
    cross_entropy("ignored class", some_ignored(3), ignore_index=3),
    cross_entropy("all ignored", all_ignored),
    cross_entropy("weight", weight=CLASS_WEIGHT),
    cross_entropy("smoothing", label_smoothing=0.1),
    cross_entropy("smoothing only", label_smoothing=1.0),
    cross_entropy(
        "weight, smoothing, ignored",
        some_ignored(-100),
        weight=CLASS_WEIGHT,
        label_smoothing=0.2,
    ),
    cross_entropy("z-loss", z_loss=1e-2),
    cross_entropy("logit scale", logit_scale=0.3),
    cross_entropy("softcap", softcap=5.0),
    cross_entropy(
        "everything",
        some_ignored(-100),
        weight=CLASS_WEIGHT,
        label_smoothing=0.1,
        z_loss=1e-2,
        logit_scale=0.7,
        softcap=20.0,
        call={"sample_weight": row_weight, "where": class_mask, "grad_output": value(-1.5)},
    ),
    cross_entropy("sample weight", call={"sample_weight": row_weight}),
    cross_entropy("sample weight, weight", weight=CLASS_WEIGHT, call={"sample_weight": row_weight}),
    cross_entropy("sample weight, none", reduction="none", call={"sample_weight": row_weight}),
    cross_entropy("signed sample weight", call={"sample_weight": signed_row_weight}),
    cross_entropy(
        "signed sample weight, weight, none",
        some_ignored(-100),
        weight=CLASS_WEIGHT,
        reduction="none",
        call={"sample_weight": signed_row_weight},
    ),
    cross_entropy("where", call={"where": class_mask}),
    cross_entropy("where, smoothing", label_smoothing=0.1, call={"where": class_mask}),
    cross_entropy(
        "where, weight, smoothing, sum",
        weight=CLASS_WEIGHT,
        label_smoothing=0.1,
        reduction="sum",
        call={"where": class_mask},
    ),
    cross_entropy("normalizer", call={"normalizer": value(7.5)}),
    cross_entropy("gradient of a mean", call={"grad_output": value(-1.5)}),
    cross_entropy("gradient of rows", reduction="none", call={"grad_output": per_row}),
    cross_entropy("1-D", shape=(10,)),
    cross_entropy("1-D, none", shape=(10,), reduction="none"),
    cross_entropy("axis 0", shape=(10, 33), axis=0),
    cross_entropy("3-D", shape=(4, 5, 10), weight=CLASS_WEIGHT),
    cross_entropy("4-D, axis 1", shape=(3, 10, 5, 7), axis=1),
    cross_entropy(
        "4-D, axis 1, all",
        some_ignored(-100),
        shape=(3, 10, 5, 7),
        axis=1,
        weight=CLASS_WEIGHT,
        label_smoothing=0.1,
        reduction="none",
        call={"sample_weight": row_weight, "where": class_mask, "grad_output": per_row},
    ),
    cross_entropy("5-D, axis 1", some_ignored(-100), shape=(2, 10, 3, 2, 4), axis=1),
    cross_entropy("probabilities", probabilities),
    cross_entropy("probabilities, none", probabilities, reduction="none"),
    cross_entropy("probabilities, sparse", sparse_probabilities, reduction="sum"),
    cross_entropy("probabilities, one-hot", one_hot_labels, reduction="none"),
    cross_entropy("probabilities, not normalised", not_normalised),
    cross_entropy("probabilities, integers", one_hot_integers, reduction="none"),
    cross_entropy("probabilities, booleans", one_hot_booleans, label_smoothing=0.1),
    cross_entropy(
        "probabilities, signed weight, axis 1",
        one_hot_integers,
        shape=(3, 10, 5, 7),
        axis=1,
        call={"sample_weight": signed_row_weight},
    ),
    cross_entropy("probabilities, confident", probabilities, logits=confident),
    cross_entropy("probabilities, many classes", probabilities, shape=(3, 1009)),
    cross_entropy("probabilities, 1-D", probabilities, shape=(10,)),
    cross_entropy(
        "probabilities, weight, smoothing",
        probabilities,
        weight=CLASS_WEIGHT,
        label_smoothing=0.2,
    ),
    cross_entropy(
        "probabilities, where",
        sparse_probabilities,
        label_smoothing=0.1,
        call={"where": class_mask, "sample_weight": row_weight},
    ),
    cross_entropy(
        "probabilities, everything",
        sparse_probabilities,
        weight=CLASS_WEIGHT,
        label_smoothing=0.1,
        z_loss=1e-2,
        logit_scale=0.7,
        softcap=20.0,
        reduction="none",
        call={"sample_weight": row_weight, "where": class_mask, "grad_output": per_row},
    ),
    cross_entropy("probabilities, axis 1", probabilities, shape=(3, 10, 5, 7), axis=1),
    *[softmax_focal(f"γ={gamma}", gamma=gamma) for gamma in (0, 0.3, 0.5, 1, 2, 3.7)],
    *[
        softmax_focal(
            f"confident, γ={gamma}", likeliest, logits=confident, gamma=gamma, reduction="none"
        )
        for gamma in (0, 0.3, 0.5, 1, 2, 3.7)
    ],
    softmax_focal("confident and wrong", logits=confident, gamma=0.5, reduction="none"),
    softmax_focal("far apart", logits=far_apart, gamma=1.5, reduction="none"),
    softmax_focal("off grid", logits=off_grid, reduction="none"),
    softmax_focal("one class", shape=(9, 1), gamma=0.5),
    softmax_focal("two classes", shape=(65, 2), reduction="sum"),
    softmax_focal("many classes", shape=(3, 1009), reduction="none"),
    softmax_focal("alpha", alpha=CLASS_ALPHA),
    softmax_focal("ignored, alpha", some_ignored(-100), alpha=CLASS_ALPHA),
    softmax_focal("ignored class", some_ignored(0), ignore_index=0, gamma=0.7),
    softmax_focal("sample weight", alpha=CLASS_ALPHA, call={"sample_weight": row_weight}),
    softmax_focal("signed sample weight", call={"sample_weight": signed_row_weight}),
    softmax_focal("where", call={"where": class_mask}, gamma=1.5),
    softmax_focal("normalizer", reduction="mean", call={"normalizer": value(3.0)}),
    softmax_focal("gradient of rows", reduction="none", call={"grad_output": per_row}),
    softmax_focal("1-D", shape=(10,)),
    softmax_focal(
        "4-D, axis 1",
        some_ignored(-100),
        shape=(3, 10, 5, 7),
        axis=1,
        alpha=CLASS_ALPHA,
        call={"sample_weight": row_weight},
    ),
    divergence("plain"),
    divergence("sum", reduction="sum"),
    divergence("none", reduction="none"),
    *[
        divergence(f"noise {noise}", near(noise), logits=off_grid, reduction="none")
        for noise in (0.1, 1e-3, 1e-6)
    ],
    divergence("noise and offset", near(1e-3, 100.0), reduction="none"),
    divergence("itself", near(0.0), reduction="none"),
    divergence("temperature", temperature=2.0, reduction="none"),
    divergence("low temperature, sum", temperature=0.3, reduction="sum"),
    divergence("temperature, many classes", near(0.1), shape=(3, 1009), temperature=4.0),
    divergence("confident", confident_teacher, logits=confident, reduction="none"),
    divergence("far apart", far_apart_teacher, logits=far_apart, reduction="none"),
    divergence("flat", logits=equal, reduction="none"),
    divergence("one class", near(0.5), shape=(9, 1)),
    divergence("two classes", near(0.5), shape=(65, 2), reduction="none"),
    divergence("many classes", near(0.5), shape=(3, 1009), reduction="none"),
    divergence("excluded by both", shape=(33, 13), target=excluding, logits=some_excluded),
    divergence("sample weight", call={"sample_weight": row_weight}),
    divergence("signed sample weight", call={"sample_weight": signed_row_weight}),
    divergence("where", call={"where": some_classes}),
    divergence("normalizer", call={"normalizer": value(7.5)}),
    divergence("gradient of a mean", call={"grad_output": value(-1.5)}),
    divergence("gradient of rows", reduction="none", call={"grad_output": per_row}),
    divergence("1-D", shape=(10,)),
    divergence("axis 0", shape=(10, 33), axis=0),
    divergence("4-D, axis 1", shape=(3, 10, 5, 7), axis=1),
    divergence(
        "everything",
        near(0.3),
        temperature=2.0,
        reduction="none",
        call={"sample_weight": row_weight, "where": some_classes, "grad_output": per_row},
    ),
    bce("plain"),
    bce("sum", reduction="sum"),
    bce("none", reduction="none"),
    bce("confident", right, logits=confident, reduction="none"),
    bce("confident and wrong", logits=confident, reduction="none"),
    bce("off grid", logits=off_grid, reduction="none"),
    bce("integers", integers),
    bce("booleans", booleans),
    bce("soft", soft),
    bce("soft, none", soft, reduction="none"),
    bce("pos_weight", pos_weight=POS_WEIGHT),
    bce("scalar pos_weight, soft", soft, pos_weight=2.5, reduction="none"),
    bce("smoothing", label_smoothing=0.1),
    bce("soft, smoothing, pos_weight", soft, label_smoothing=0.1, pos_weight=POS_WEIGHT),
    bce("sample weight", call={"sample_weight": element_weight}),
    bce("signed sample weight", call={"sample_weight": signed_element_weight}),
    bce("weight of rows", call={"sample_weight": weight_per_row}),
    bce("where", call={"where": element_mask}),
    bce("where over the last axis", reduction="sum", call={"where": last_axis_mask}),
    bce("normalizer", call={"normalizer": value(12.5)}),
    bce("gradient of a sum", reduction="sum", call={"grad_output": value(0.3)}),
    bce(
        "everything",
        soft,
        pos_weight=POS_WEIGHT,
        label_smoothing=0.1,
        reduction="none",
        call={
            "sample_weight": element_weight,
            "where": element_mask,
            "grad_output": per_element,
        },
    ),
    bce("0-d", shape=()),
    bce("1-D", shape=(301,)),
    bce("4-D", shape=(2, 3, 5, 10), pos_weight=POS_WEIGHT),
    *[sigmoid_focal(f"γ={gamma}", gamma=gamma) for gamma in (0, 0.3, 0.5, 1, 2, 3.7)],
    *[sigmoid_focal(f"soft, γ={gamma}", soft, gamma=gamma) for gamma in (0, 0.3, 1, 2, 3.7)],
    *[
        sigmoid_focal(
            f"confident, γ={gamma}", right, logits=confident, gamma=gamma, reduction="none"
        )
        for gamma in (0, 0.3, 1, 2, 3.7)
    ],
    sigmoid_focal("confident and wrong", logits=confident, gamma=0.5, reduction="none"),
    sigmoid_focal("off grid", logits=off_grid, reduction="none"),
    sigmoid_focal("no alpha", alpha=None),
    sigmoid_focal("no alpha, soft", soft, alpha=None, reduction="sum"),
    sigmoid_focal("alpha 0", alpha=0.0),
    sigmoid_focal("alpha 1", alpha=1.0),
    sigmoid_focal("alpha of classes", alpha=ALPHA, reduction="none"),
    sigmoid_focal("alpha of classes, soft", soft, alpha=ALPHA, gamma=1.5),
    sigmoid_focal(
        "alpha of rows, signed weight",
        shape=(5, 10),
        alpha=ALPHA[None],
        label_smoothing=0.1,
        call={"sample_weight": signed_element_weight},
    ),
    sigmoid_focal("smoothing", label_smoothing=0.1),
    sigmoid_focal("booleans", booleans),
    sigmoid_focal("sample weight", call={"sample_weight": element_weight}),
    sigmoid_focal("where", gamma=0.5, call={"where": element_mask}),
    sigmoid_focal("normalizer", call={"normalizer": value(12.5)}),
    sigmoid_focal(
        "everything",
        soft,
        gamma=1.5,
        label_smoothing=0.1,
        reduction="none",
        call={
            "sample_weight": weight_per_row,
            "where": last_axis_mask,
            "grad_output": per_element,
        },
    ),
    sigmoid_focal("3-D", shape=(3, 7, 10)),
]

SOFTMAX_CASES = [case for case in CASES if case.is_softmax]
SIGMOID_CASES = [case for case in CASES if not case.is_softmax]


def case(loss: str, name: str) -> Case:
    """The case of that loss and name."""
    (found,) = (c for c in CASES if c.loss == loss and c.name == name)
    return found


# Options that reach every branch of the kernels: for the properties of layout, threads and outputs,
# which do not depend on the values.
THOROUGH = [
    case("SoftmaxCrossEntropy", "everything"),
    case("SoftmaxCrossEntropy", "probabilities, everything"),
    case("SoftmaxFocalLoss", "sample weight"),
    case("SoftmaxKLDivergence", "everything"),
    case("BCEWithLogits", "everything"),
    case("SigmoidFocalLoss", "everything"),
]


def small_batch(loss: str, dtype: str | type = "float32") -> tuple[np.ndarray, np.ndarray]:
    """Logits of 6 rows and 3 classes, and a target that the loss accepts."""
    rng = np.random.default_rng(7)
    z = on_grid(rng, (6, 3)).astype(dtype)
    if loss == DISTILLATION:
        return z, on_grid(rng, (6, 3)).astype(dtype)
    return z, rng.integers(3, size=6) if loss in SOFTMAX else rng.integers(2, size=z.shape)
