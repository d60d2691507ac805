"""The losses on dask arrays: equal to NumPy's, in every chunking, on every scheduler."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from bounds import assert_within, tolerances, working
from cases import CASES, DTYPES, SOFTMAX, confident, on_grid
from clusters import worker_processes

import fastce

pytest.importorskip("dask.array")

import dask
import dask.array as da
from dask.callbacks import Callback

import fastce.dask
from fastce._dask_graph import MERGED_AT_ONCE

CHUNKED = [c for c in CASES if not set(c.call) - {"sample_weight", "normalizer"}]


def chunkings(c, batch):
    """Chunks of the logits: whole, over samples, and where there are labels over classes too."""
    shape = batch.logits.shape
    thirds = tuple(-(-size // 3) for size in shape)
    yield "whole", shape
    rows = list(thirds)
    if c.loss in SOFTMAX:
        rows[c.axis] = shape[c.axis]
    yield "samples", tuple(rows)
    if c.loss in SOFTMAX and np.asarray(batch.target).dtype.kind in "iu":
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


@pytest.fixture
def problem(rng):
    """Rows of a small vocabulary, some of them confident, in chunks over both axes."""
    z = on_grid(rng, (60, 500)).astype(np.float32)
    z[:20] = confident(rng, (20, 500))
    y = np.where(rng.random(60) < 0.5, np.argmax(z, axis=1), rng.integers(500, size=60))
    return da.from_array(z, chunks=(17, 90)), da.from_array(y, chunks=25)


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


@pytest.mark.parametrize("loss", [fastce.BCEWithLogits(), fastce.SoftmaxCrossEntropy()])
def test_weights_that_broadcast(loss, problem):
    z, y = problem
    weight = np.arange(1.0, 61.0)
    if isinstance(loss, fastce.BCEWithLogits):
        y, weight = (z > 0).astype(np.float32), weight[:, None]
    for w in (weight, da.from_array(weight, chunks=7)):
        value, grad = dask.compute(
            *fastce.dask.value_and_grad(loss, z, y, sample_weight=w), scheduler="sync"
        )
        expected = loss.value_and_grad(z.compute(), y.compute(), sample_weight=weight)
        assert value == pytest.approx(expected[0], rel=1e-6)
        np.testing.assert_allclose(grad, expected[1], rtol=1e-5, atol=1e-12)


# What a task holds --------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [(10, 4_000), (40, 500), (10, 500)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_no_task_holds_more_than_a_chunk_and_its_outputs(chunks, smoothing):
    """No task takes in more than one chunk, or gives more than a chunk and its rows' numbers."""
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


# Schedulers ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client():
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 10}),
        worker_processes(3) as client,
    ):
        yield client


LOSSES = [
    fastce.SoftmaxCrossEntropy(),
    fastce.SoftmaxCrossEntropy(label_smoothing=0.1, z_loss=1e-3, reduction="sum"),
    fastce.SoftmaxFocalLoss(reduction="none"),
]


def bits(results):
    return [np.asarray(x).tobytes() for x in results]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("chunks", [(25, 500), (25, 130)])
def test_every_scheduler_gives_the_same_bits(loss, chunks, problem, client):
    z, y = problem
    lazy = fastce.dask.value_and_grad(loss, z.rechunk(chunks), y)
    expected = bits(dask.compute(*lazy, scheduler="sync"))
    assert bits(dask.compute(*lazy, scheduler="threads", num_workers=4)) == expected
    assert bits(client.gather(client.compute(lazy))) == expected


def kill_this_worker_once(block, flag):
    """Pass a block on; the first worker to come here dies instead."""
    try:
        os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return block
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.filterwarnings("default")
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize(
    ("where", "chunks"), [("logits", (25, 500)), ("logits", (25, 130)), ("grad", (25, 130))]
)
def test_survives_the_death_of_a_worker(where, chunks, problem, client, tmp_path):
    """A worker dies as it makes a chunk of logits, or as it takes up one of the gradient."""
    z, y = problem
    z = z.rechunk(chunks)
    loss, flag = fastce.SoftmaxCrossEntropy(), tmp_path / "killed"
    expected = bits(dask.compute(*fastce.dask.value_and_grad(loss, z, y), scheduler="sync"))
    workers = set(client.scheduler_info(n_workers=-1)["workers"])

    def dangerous(array):
        return array.map_blocks(kill_this_worker_once, str(flag), meta=array._meta)

    value, grad = fastce.dask.value_and_grad(loss, dangerous(z) if where == "logits" else z, y)
    grad = dangerous(grad) if where == "grad" else grad
    results = client.gather(client.compute((value, grad)))
    assert flag.exists()
    client.wait_for_workers(3, timeout=60)
    assert set(client.scheduler_info(n_workers=-1)["workers"]) != workers
    assert bits(results) == expected


# Errors -------------------------------------------------------------------------------------------


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
    with pytest.raises(IndexError, match="label -100"):
        fastce.dask.token_log_probs(z, y - y - 100).lse.compute(scheduler="sync")
    with pytest.raises(ValueError, match="sample_weight must be finite"):
        fastce.dask.value(ce, z, y, sample_weight=-np.ones(60)).compute(scheduler="sync")
