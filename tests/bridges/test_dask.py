"""The losses on dask arrays: equal to NumPy's, in every chunking, on every scheduler."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from batches import on_grid
from bounds import assert_within, tolerances, working
from cases import CASES, DISTILLATION, DTYPES

import fastce

pytest.importorskip("dask.array")

import dask
import dask.array as da
from dask.callbacks import Callback

import fastce.dask
from fastce.dask._graph import MERGED_AT_ONCE

CHUNKED = [c for c in CASES if not set(c.call) - {"sample_weight", "where", "normalizer"}]


def chunkings(c, batch):
    """Chunks of the logits: whole, over samples and, except with probabilities, over classes."""
    shape = batch.logits.shape
    thirds = tuple(-(-size // 3) for size in shape)
    yield "whole", shape
    rows = list(thirds)
    if c.is_softmax:
        rows[c.axis] = shape[c.axis]
    yield "samples", tuple(rows)
    if c.is_softmax and (c.loss == DISTILLATION or np.ndim(batch.target) < len(shape)):
        classes = list(shape)
        classes[c.axis] = thirds[c.axis]
        yield "classes", tuple(classes)
        yield "both", thirds


@pytest.mark.parametrize("c", CHUNKED, ids=str)
def test_equals_the_reference(c):
    check_against_the_reference(c, "float32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax_cross_entropy:confident", "bce_with_logits:plain"])
def test_equals_the_reference_in_every_type(name, dtype):
    check_against_the_reference(next(c for c in CHUNKED if str(c) == name), dtype)


def check_against_the_reference(c, dtype):
    batch = c.batch(dtype)
    truth, bound = c.truth(batch), tolerances(c, batch)
    loss = c.build()
    for name, chunks in chunkings(c, batch):
        logits = da.from_array(batch.logits, chunks=chunks)
        lazy = fastce.dask.value_and_grad(loss, logits, batch.target, **batch.call)
        alone = fastce.dask.value(loss, logits, batch.target, **batch.call)
        assert lazy[1].chunks == logits.chunks, name
        assert lazy[1].dtype == logits.dtype
        with np.errstate(all="ignore"):
            value, grad, value_alone = dask.compute(*lazy, alone, scheduler="sync")
        value_type = working(batch.logits.dtype) if c.reduction == "none" else np.float64
        for x, array in ((value, lazy[0]), (value_alone, alone)):
            assert np.asarray(x).dtype == array.dtype == value_type
            assert_within(x, truth[0], bound[0], value_type)
        assert grad.dtype == batch.logits.dtype
        assert_within(grad, truth[1], bound[1], batch.logits.dtype)


@pytest.mark.parametrize("chunks", [(60, 500), (17, 500), (60, 90), (17, 90)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_token_log_probs(chunks, dtype, problem):
    z, y = problem
    z = z.astype(DTYPES[dtype]).rechunk(chunks)
    lazy = fastce.dask.token_log_probs(z, y)
    result = dask.compute(*lazy, scheduler="sync")
    expected = fastce.token_log_probs(z.compute(), y.compute())
    for array, x, e in zip(lazy, result, expected, strict=True):
        assert array.dtype == x.dtype == e.dtype
        assert array.chunks == z.chunks[:1]
        np.testing.assert_allclose(x, e, rtol=8 * np.finfo(working(z.dtype)).eps)


def test_token_log_probs_of_another_axis(problem):
    z, y = problem
    lazy = fastce.dask.token_log_probs(z.T.reshape(500, 6, 10), y.reshape(6, 10), axis=0)
    result = dask.compute(*lazy, scheduler="sync")
    expected = fastce.token_log_probs(z.compute(), y.compute())
    np.testing.assert_array_equal(result[2].ravel(), expected.argmax)
    np.testing.assert_allclose(result[0].ravel(), expected.log_prob, rtol=1e-6)


def test_argmax_passes_over_nan_and_over_chunks_without_classes():
    z = np.array([[np.nan, 1, 5, 2], [1, 2, np.nan, 0], [1, 2, 3, np.nan], [np.nan] * 4])
    for width in (1, 2, 4, (0, 4), (4, 0), (2, 0, 2)):
        found = fastce.dask.token_log_probs(da.from_array(z, chunks=(4, width)), [0] * 4)
        np.testing.assert_array_equal(found.argmax.compute(scheduler="sync"), [2, 1, 2, 0])
        assert np.isnan(found.log_prob.compute(scheduler="sync")).all()


MASKS = [(60, 500), (1, 500), (60, 1), (500,)]


@pytest.mark.parametrize("shape", MASKS, ids=str)
@pytest.mark.parametrize("chunks", [(17, 500), (17, 90)])
def test_where_that_broadcasts(shape, chunks, problem, rng):
    z, y = problem
    where = rng.random(shape) < 0.8
    where[..., 0] = True
    for loss in (
        fastce.SoftmaxCrossEntropy(),
        fastce.SoftmaxCrossEntropy(
            label_smoothing=0.1, weight=np.arange(500) % 3, z_loss=1e-3, logit_scale=0.7, softcap=20
        ),
        fastce.BCEWithLogits(),
    ):
        is_bce = isinstance(loss, fastce.BCEWithLogits)
        target = (z > 0) if is_bce else y
        weight = da.linspace(0, 1, 60, chunks=7)
        call = {"sample_weight": weight[:, None] if is_bce else weight}
        whole = {"where": where, "sample_weight": call["sample_weight"].compute()}
        expected = loss.value_and_grad(z.compute(), target.compute(), **whole)
        for mask in (where, da.from_array(where, chunks=11)):
            value, grad = dask.compute(
                *fastce.dask.value_and_grad(loss, z.rechunk(chunks), target, where=mask, **call),
                scheduler="sync",
            )
            np.testing.assert_allclose(value, expected[0], rtol=1e-6)
            np.testing.assert_allclose(grad, expected[1], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("alpha", "chunks"),
    [(500, (17, 90)), ((60, 1), (17, 90)), ((60, 500), (17, 500)), ((1, 1), (60, 90))],
)
def test_array_options_of_sigmoid_losses(alpha, chunks, problem, rng):
    z, _ = problem
    y = z > 0
    share = rng.uniform(size=alpha)
    for loss in (fastce.SigmoidFocalLoss(alpha=share), fastce.BCEWithLogits(pos_weight=3 * share)):
        expected = loss.value_and_grad(z.compute(), y.compute())
        lazy = fastce.dask.value_and_grad(loss, z.rechunk(chunks), y)
        value, grad = dask.compute(*lazy, scheduler="sync")
        np.testing.assert_allclose(value, expected[0], rtol=1e-6)
        np.testing.assert_allclose(grad, expected[1], rtol=1e-6, atol=1e-12)


# Denominators -------------------------------------------------------------------------------------


def weighted(rng, loss, chunks, weight):
    """Lazy results of rows with weights, and a function that computes them without dask."""
    z = on_grid(rng, (60, 9))
    y = (z > 0) if isinstance(loss, fastce.BCEWithLogits) else rng.integers(9, size=60)
    if isinstance(loss, fastce.SoftmaxKLDivergence):
        y = on_grid(rng, (60, 9))
    if isinstance(loss, fastce.BCEWithLogits):
        weight = weight[:, None]
    lazy = fastce.dask.value_and_grad(loss, da.from_array(z, chunks), y, sample_weight=weight)
    return lazy, lambda: loss.value_and_grad(z, y, sample_weight=weight)


WEIGHTED = [
    (fastce.SoftmaxCrossEntropy(), (17, 9)),
    (fastce.SoftmaxCrossEntropy(label_smoothing=0.1), (17, 4)),
    (fastce.SoftmaxFocalLoss(), (17, 4)),
    (fastce.SoftmaxKLDivergence(), (17, 4)),
    (fastce.BCEWithLogits(), (17, 4)),
]


@pytest.mark.parametrize(("loss", "chunks"), WEIGHTED)
def test_negative_weights(loss, chunks, rng):
    """Even for whole chunks: only the sum over all of them must be positive."""
    weight = np.where(np.arange(60) < 25, -1.0, rng.uniform(1, 2, size=60))
    lazy, plainly = weighted(rng, loss, chunks, weight)
    value, grad = dask.compute(*lazy, scheduler="sync")
    expected = plainly()
    assert value == pytest.approx(expected[0], rel=1e-12)
    np.testing.assert_allclose(grad, expected[1], rtol=1e-12, atol=1e-17)


@pytest.mark.parametrize(("loss", "chunks"), WEIGHTED)
def test_a_sum_of_weights_that_is_not_positive(loss, chunks, rng):
    """It is an error when the result is computed. If all weights are 0, the result is NaN."""
    for weight in (-np.ones(60), np.tile([1.0, -1.0], 30), np.repeat([1.0, -1.0], 30)):
        lazy, plainly = weighted(rng, loss, chunks, weight)
        with pytest.raises(ValueError, match=r"sum of the weights.*got") as error:
            plainly()
        for array in lazy:
            with pytest.raises(ValueError, match=r"sum of the weights.*normalizer") as lazily:
                array.compute(scheduler="sync")
            assert str(lazily.value) == str(error.value)
    value, grad = dask.compute(*weighted(rng, loss, chunks, np.zeros(60))[0], scheduler="sync")
    assert np.isnan(value)
    assert not grad.any()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("loss", "chunks"), WEIGHTED)
def test_a_sum_of_weights_that_overflows(loss, chunks, rng):
    weight = np.full(60, 1e307)
    weight[3] = 0
    value, grad = dask.compute(*weighted(rng, loss, chunks, weight)[0], scheduler="sync")
    assert np.isnan(value)
    assert np.isnan(np.delete(grad, 3, axis=0)).all()
    assert not grad[3].any()


@pytest.mark.parametrize("chunks", [(17, 500), (17, 90)])
@pytest.mark.parametrize("ignored", [False, True])
def test_gradients_have_the_type_that_dask_reports(ignored, chunks, problem):
    """Also for logits in the other byte order, and if no row counts."""
    z, y = problem
    z, y = z.astype(">f4").rechunk(chunks), da.full_like(y, -100) if ignored else y
    for lazy in fastce.dask.value_and_grad(fastce.SoftmaxCrossEntropy(), z, y):
        assert lazy.compute(scheduler="sync").dtype.str == lazy.dtype.str


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("chunks", [(3, 4), (3, 2)])
def test_losses_beyond_float32_are_infinite(chunks):
    loss = fastce.SoftmaxCrossEntropy(z_loss=1.0, reduction="none")
    z, y = np.full((3, 4), 1e25, np.float32), [0, 1, 2]
    value = fastce.dask.value(loss, da.from_array(z, chunks), y).compute(scheduler="sync")
    np.testing.assert_array_equal(value, loss(z, y))
    assert np.isposinf(value).all()


@pytest.mark.parametrize("chunks", [(700_000, 2), (700_000, 1)])
def test_four_million_weights_are_summed_to_the_last_digits(chunks, rng):
    z = da.from_array(rng.normal(size=(4_000_000, 2)), chunks)
    y, weight = np.zeros(4_000_000, np.int8), np.full(4_000_000, 0.1)
    plain = fastce.SoftmaxCrossEntropy()
    lazy = [
        fastce.dask.value(plain, z, y),
        fastce.dask.value(fastce.SoftmaxCrossEntropy(weight=[0.1, 0.1]), z, y),
        fastce.dask.value(plain, z, y, sample_weight=weight),
    ]
    first, *others = dask.compute(*lazy, scheduler="sync")
    np.testing.assert_allclose(others, [first, first], rtol=1e-15)


def test_half_of_four_million_weights_are_summed_to_the_last_digits(rng):
    """NumPy adds up one by one what a mask keeps, which is off by some 1e-11."""
    z, where = rng.normal(size=4_000_000), rng.random(4_000_000) < 0.5
    bce = fastce.BCEWithLogits()
    weight, y = np.full(4_000_000, 0.1), np.zeros(4_000_000, bool)
    value = fastce.dask.value(bce, da.from_array(z, 700_000), y, sample_weight=weight, where=where)
    np.testing.assert_allclose(value.compute(scheduler="sync"), bce(z[where], y[where]), rtol=1e-15)


def test_a_normalizer_that_is_computed_later(problem):
    z, y = problem
    loss = fastce.SoftmaxCrossEntropy()
    count = (y >= 0).sum()
    lazy = fastce.dask.value_and_grad(loss, z, y, normalizer=2 * count)
    value, grad = dask.compute(*lazy, scheduler="sync")
    expected = loss.value_and_grad(z.compute(), y.compute(), normalizer=120)
    assert value == pytest.approx(expected[0], rel=1e-6)
    np.testing.assert_allclose(grad, expected[1], rtol=1e-5, atol=1e-12)
    with pytest.raises(ValueError, match="normalizer must be finite and greater than 0, got"):
        fastce.dask.value(loss, z, y, normalizer=count - 60).compute(scheduler="sync")
    with pytest.raises(ValueError, match=r"normalizer must be a number.*got \(60,\)"):
        fastce.dask.value(loss, z, y, normalizer=y)


# What a task holds --------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [(10, 4_000), (40, 500), (10, 500)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_no_task_holds_more_than_a_chunk_and_its_outputs(chunks, smoothing):
    """No task reads more than one chunk, or returns more than a chunk and its rows' numbers."""
    loss = fastce.SoftmaxCrossEntropy(label_smoothing=smoothing)
    z = da.random.default_rng(1).normal(size=(80, 4_000), chunks=chunks)
    y = np.zeros(80, int)
    chunk = int(np.prod(chunks)) * 8
    rows = chunks[0] * MERGED_AT_ONCE * 5 * 8
    taken, given = [], []

    def size(x):
        if isinstance(x, (tuple, list)):
            return sum(size(e) for e in x)
        return x.nbytes if isinstance(x, np.ndarray) else 0

    def before(key, graph, state):
        taken.append(sum(size(state["cache"][k]) for k in state["dependencies"][key]))

    def after(key, result, graph, state, worker):
        given.append(size(result))

    value, grad = fastce.dask.value_and_grad(loss, z, y)
    with Callback(pretask=before, posttask=after):
        norms = da.sqrt((grad * grad).sum(axis=1))
        dask.compute(value, norms, scheduler="sync")
    assert max(given) <= 2 * chunk + rows
    assert max(taken) <= 2 * chunk + rows  # `grad * grad` fused: a chunk twice
    assert len(given) >= z.npartitions


def test_nothing_runs_before_compute():
    def explode(block):
        raise AssertionError("computed")

    z = da.zeros((6, 8), chunks=(2, 4)).map_blocks(explode, dtype=np.float64, meta=np.empty((0, 0)))
    for loss in (fastce.SoftmaxCrossEntropy(), fastce.BCEWithLogits()):
        y = np.zeros((6, 8)) if isinstance(loss, fastce.BCEWithLogits) else np.zeros(6, int)
        value, grad = fastce.dask.value_and_grad(loss, z, y)
        for lazy in (value, grad, fastce.dask.value(loss, z, y)):
            with pytest.raises(AssertionError, match="computed"):
                lazy.compute(scheduler="sync")


# Arrays without rows ------------------------------------------------------------------------------


def test_no_rows():
    losses = (fastce.SoftmaxCrossEntropy(), []), (fastce.BCEWithLogits(), np.zeros((0, 4)))
    for chunks, (loss, y) in itertools.product(((2, 4), (2, 3)), losses):
        z = da.zeros((0, 4), chunks=chunks)
        for call in ({}, {"sample_weight": 2.0}, {"where": True}):
            value, grad = fastce.dask.value_and_grad(loss, z, y, **call)
            assert np.isnan(value.compute(scheduler="sync"))
            assert grad.compute(scheduler="sync").shape == (0, 4)
