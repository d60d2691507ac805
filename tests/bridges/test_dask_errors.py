"""Errors of `fastce.dask`: at once for a wrong shape or type, when computed for a wrong value."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("dask.array")

import dask.array as da

import fastce
import fastce.dask


def test_errors_before_anything_runs(problem):
    z, y = problem
    ce = fastce.SoftmaxCrossEntropy()
    with pytest.raises(TypeError, match="logits must be a dask array, got ndarray"):
        fastce.dask.value(ce, np.zeros((2, 3)), [0, 1])
    with pytest.raises(TypeError, match="got int64"):
        fastce.dask.value(ce, z.astype(int), y)
    with pytest.raises(ValueError, match=r"class labels must have shape \(60,\)"):
        fastce.dask.value(ce, z, y[:5])
    with pytest.raises(ValueError, match="rechunk"):
        fastce.dask.value(ce, z, da.ones_like(z))
    with pytest.raises(TypeError, match="integer class labels"):
        fastce.dask.token_log_probs(z, da.ones_like(z))
    with pytest.raises(ValueError, match="compute_chunk_sizes"):
        fastce.dask.value(ce, z[z[:, 0] > 0], y)
    with pytest.raises(ValueError, match="2 weights"):
        fastce.dask.value(fastce.SoftmaxCrossEntropy(weight=[1, 2]), z, y)
    with pytest.raises(ValueError, match="sample_weight of shape"):
        fastce.dask.value(ce, z, y, sample_weight=np.ones(7))
    with pytest.raises(ValueError, match="normalizer"):
        fastce.dask.value(ce, z, y, normalizer=-1)
    with pytest.raises(ValueError, match="does not fit"):
        fastce.dask.value(fastce.BCEWithLogits(), z, y)


@pytest.mark.parametrize("chunks", [(17, 500), (17, 90)])
def test_errors_of_values(chunks, problem):
    z, y = problem
    z = z.rechunk(chunks)
    bad = y.copy()
    bad[40] = 500
    ce = fastce.SoftmaxCrossEntropy()
    value, grad = fastce.dask.value_and_grad(ce, z, bad)
    for lazy in (value, grad, fastce.dask.token_log_probs(z, bad).lse):
        with pytest.raises(IndexError, match="label 500"):
            lazy.compute(scheduler="sync")
    for label in (-100, np.iinfo(np.int64).min):
        lazy = fastce.dask.token_log_probs(z, da.full_like(y, label)).lse
        with pytest.raises(IndexError, match=rf"label {label} at .* are 0 to 499$"):
            lazy.compute(scheduler="sync")


def positions(call, match):
    """Each lazy result raises, from a chunk that is not the first."""
    for lazy in call:
        with pytest.raises((IndexError, ValueError), match=match):
            lazy.compute(scheduler="sync")


@pytest.mark.parametrize("chunks", [(17, 500), (17, 90)])
def test_positions_are_those_of_the_whole_array(chunks, problem):
    z, y = problem
    z, y = z.rechunk(chunks).reshape(60, 1, 500), y.reshape(60, 1)
    bad = da.where(da.arange(60, chunks=9)[:, None] == 40, 500, y)
    for loss in (fastce.SoftmaxCrossEntropy(), fastce.SoftmaxFocalLoss(reduction="none")):
        call = fastce.dask.value_and_grad(loss, z, bad)
        positions(call, r"label 500 at position \(40, 0\), but")
        for shape, at in (((60, 1), r"\(41, 0\)"), ((1, 1), r"\(0, 0\)"), ((1,), "0")):
            weight = np.ones(shape)
            weight[min(41, shape[0] - 1)] = np.nan
            for given in (weight, da.from_array(weight, 7)):
                call = fastce.dask.value_and_grad(loss, z, y, sample_weight=given)
                positions(call, f"sample_weight must be finite, got nan at position {at}$")
        call = fastce.dask.value_and_grad(loss, z, y, sample_weight=np.nan)
        positions(call, "sample_weight must be finite, got nan$")
    positions(fastce.dask.token_log_probs(z, bad), r"label 500 at position \(40, 0\), but")


@pytest.mark.parametrize(
    ("loss", "chunks"),
    [
        (fastce.SoftmaxCrossEntropy(), (17, 500)),
        (fastce.BCEWithLogits(), (17, 90)),
        (fastce.SigmoidFocalLoss(alpha=np.linspace(0, 1, 500)), (17, 90)),
    ],
)
def test_positions_of_probabilities(loss, chunks, problem):
    z, _ = problem
    z = z.rechunk(chunks)
    y = np.full((60, 500), 1 / 512)
    y[40, 300] = -1
    for target in (y, da.from_array(y, 33)):
        call = fastce.dask.value_and_grad(loss, z, target)
        positions(call, r"target must .*got -1.0 at position \(40, 300\)")
    weight = np.ones((60, 500) if chunks[1] == 90 else 60)
    weight[40] = 0  # then the target is not checked
    for lazy in fastce.dask.value_and_grad(loss, z, y, sample_weight=weight):
        assert np.isfinite(lazy.compute(scheduler="sync")).all()
    at = (41, 300)[: weight.ndim]
    weight[at] = np.inf
    call = fastce.dask.value_and_grad(loss, z, y, sample_weight=weight)
    positions(call, rf"got inf at position {'41' if len(at) == 1 else r'.41, 300.'}$")


def test_errors_of_dask_and_numpy_do_not_come_through(problem):
    z, y = problem
    ce, bce = fastce.SoftmaxCrossEntropy(), fastce.BCEWithLogits()
    unknown = y[y >= 0]
    with pytest.raises(ValueError, match="target must have known chunk sizes: call compute_chunk"):
        fastce.dask.value(ce, z, unknown)
    for name in ("sample_weight", "where"):
        with pytest.raises(ValueError, match=f"{name} must have known chunk sizes"):
            fastce.dask.value(ce, z, y, **{name: unknown})
    with pytest.raises(ValueError, match="target must have known chunk sizes"):
        fastce.dask.token_log_probs(z, unknown)
    for wrong in (da.ma.masked_array(y), np.ma.masked_array(y.compute())):
        with pytest.raises(TypeError, match=r"target (is|consists of) .*masked array"):
            fastce.dask.value(ce, z, wrong)
        with pytest.raises(TypeError, match=r"sample_weight (is|consists of) .*masked array"):
            fastce.dask.value(ce, z, y, sample_weight=wrong)
    with pytest.raises(TypeError, match="logits consists of masked arrays"):
        fastce.dask.value(ce, da.ma.masked_array(z), y)
    with pytest.raises(ValueError, match="target cannot be converted to an array"):
        fastce.dask.value(ce, z, [[1], [2, 3]])
    with pytest.raises(TypeError, match="target must be integer class labels"):
        fastce.dask.value(ce, z, None)
    for wrong in (None, "ce", fastce.SoftmaxCrossEntropy, np.sum):
        with pytest.raises(TypeError, match=r"loss must be one of BCEWithLogits, .*got"):
            fastce.dask.value(wrong, z, y)
    with pytest.raises(TypeError, match="normalizer must be a real number"):
        fastce.dask.value(ce, z, y, normalizer="many")
    with pytest.raises(TypeError, match="where must be bool"):
        fastce.dask.value(ce, z, y, where=np.ones(500))
    with pytest.raises(ValueError, match="where of shape"):
        fastce.dask.value(ce, z, y, where=y >= 0)
    with pytest.raises(ValueError, match=r"pos_weight of shape \(3,\) does not broadcast"):
        fastce.dask.value(fastce.BCEWithLogits(pos_weight=[1, 2, 3]), z, z > 0)
    with pytest.raises(ValueError, match=r"alpha of shape \(3,\) does not broadcast"):
        fastce.dask.value(fastce.SigmoidFocalLoss(alpha=[0.1, 0.2, 0.3]), z, z > 0)
    with pytest.raises(ValueError, match="axis"):
        fastce.dask.value(fastce.SoftmaxCrossEntropy(axis=2), z, y)
    with pytest.raises(ValueError, match="class axis"):
        fastce.dask.value(ce, z.sum(), y)
    for shape in ((60, 1), (1, 60), (30, 2), (500, 60)):
        with pytest.raises(ValueError, match="target of shape"):
            fastce.dask.value(ce, z, da.zeros(shape, dtype=int))
    with pytest.raises(ValueError, match="does not fit logits"):
        fastce.dask.value(bce, z, da.zeros((500, 60)))
    with pytest.raises(ValueError, match="sample_weight of shape"):
        fastce.dask.value(ce, z, y, sample_weight=np.ones((60, 1)))
