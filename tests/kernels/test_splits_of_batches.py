"""How a batch is split changes no bit of a single loss, a gradient or a Hessian."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from cases import DTYPES
from sizes import SIZES

import fastce

# Within a block of rows, at its end and beyond; the last is beyond a run of interleaved rows, too.
BLOCK, RUN = SIZES["block rows"], SIZES["interleaved rows"]
CUTS = (0, 1, 6, 7, 19, 40, 67, BLOCK, BLOCK + 3, RUN + BLOCK + 5)
CLASSES = (1, 2, SIZES["interleaved classes"] + 1, 33, SIZES["short row"] + 1)
LONG = SIZES["largest block bytes"] // 4 + 1  # of which there are fewer rows
LOSSES = {
    "cross-entropy": (fastce.SoftmaxCrossEntropy, {}),
    "label smoothing": (fastce.SoftmaxCrossEntropy, {"label_smoothing": 0.1, "z_loss": 1e-3}),
    "probabilities": (fastce.SoftmaxCrossEntropy, {}),
    "softcap": (fastce.SoftmaxCrossEntropy, {"softcap": 9.0, "logit_scale": 0.5}),
    "focal": (fastce.SoftmaxFocalLoss, {}),
    "bce": (fastce.BCEWithLogits, {}),
    "sigmoid focal": (fastce.SigmoidFocalLoss, {"gamma": 1.5}),
}


def target_for(name, loss, shape, rng):
    if name == "probabilities":
        return rng.dirichlet(np.ones(shape[1]), shape[0])
    if issubclass(loss, fastce.BCEWithLogits | fastce.SigmoidFocalLoss):
        return rng.integers(2, size=shape)
    return rng.integers(shape[1], size=shape[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["rows", "planes"])
@pytest.mark.parametrize("name", LOSSES)
def test_parts_have_the_bits_of_the_whole(name, layout, dtype, isa, rng):
    loss, options = LOSSES[name]
    for classes in (*CLASSES, LONG):
        cuts = CUTS if classes < LONG else CUTS[:6]
        shape = cuts[-1], classes
        # Some rows keep within the range of exp, some do not.
        scale = rng.choice([1, 8, 300], size=(shape[0], 1))
        z = (rng.standard_normal(shape) * scale).astype(DTYPES[dtype])
        if layout == "planes":
            z = np.ascontiguousarray(z.T).T
        target = target_for(name, loss, shape, rng)
        weight = rng.choice([0.0, 0.5, 1.0, -2.0], size=len(z))
        if issubclass(loss, fastce.BCEWithLogits | fastce.SigmoidFocalLoss):
            weight = weight[:, None]
        for reduction, call in (("none", {}), ("mean", {"normalizer": 31.0})):
            of = loss(reduction=reduction, **options)
            whole = of.value_grad_hess(z, target, sample_weight=weight, **call)
            parts = [
                of.value_grad_hess(z[a:b], target[a:b], sample_weight=weight[a:b], **call)
                for a, b in pairwise(cuts)
            ]
            for which in range(reduction == "mean", 3):
                joined = np.concatenate([part[which] for part in parts])
                np.testing.assert_array_equal(
                    joined.astype(np.float64), whole[which].astype(np.float64)
                )
            if reduction == "mean":  # the same up to the order of a sum
                total = sum(part[0] for part in parts)
                size = abs(loss(reduction="none", **options)(z, target, sample_weight=weight))
                rtol = 1e-13 if dtype == "float64" else 1e-6
                assert abs(total - whole[0]) <= rtol * size.sum() / 31.0
