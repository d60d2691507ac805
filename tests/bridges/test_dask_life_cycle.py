"""Results of `fastce.dask` on every scheduler: computed, persisted, pickled, told apart by name."""

from __future__ import annotations

import functools
import os
import pickle
import signal

import numpy as np
import pytest

pytest.importorskip("dask.array")

import dask
import dask.array as da
from batches import on_grid
from clusters import worker_processes

import fastce
import fastce.dask


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


# Persisting, pickling, names ----------------------------------------------------------------------


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("chunks", [(25, 500), (25, 130), ((1, 0, 9, 50), (499, 1))])
def test_persisted_pickled_and_in_processes(chunks, problem, client, tmp_path):
    z, y = problem
    z = z.rechunk(chunks)
    loss = fastce.SoftmaxCrossEntropy(weight=np.arange(1.0, 501.0), label_smoothing=0.1)
    weight, where = np.linspace(-0.1, 1, 60), np.arange(500) % 7 > 0
    lazy = fastce.dask.value_and_grad(loss, z, y, sample_weight=weight, where=where)
    expected = bits(dask.compute(*lazy, scheduler="sync"))
    copies = pickle.loads(pickle.dumps(lazy))
    assert bits(dask.compute(*copies, scheduler="sync")) == expected
    assert bits(dask.compute(*lazy, scheduler="processes", num_workers=2)) == expected
    for scheduler in ("sync", client):
        persisted = dask.persist(*lazy, scheduler=scheduler)
        assert persisted[1].chunks == z.chunks
        assert bits(dask.compute(*persisted, scheduler=scheduler)) == expected
    assert bits(client.gather(client.compute(copies))) == expected


@pytest.mark.filterwarnings("default")
def test_an_error_of_a_worker_arrives_whole(problem, client):
    z, y = problem
    bad = da.where(da.arange(60, chunks=13) == 41, 500, y)
    value = fastce.dask.value(fastce.SoftmaxCrossEntropy(), z, bad)
    with pytest.raises(IndexError, match="label 500 at position 41"):
        client.compute(value).result()
    with pytest.raises(IndexError, match="label 500 at position 41"):
        value.compute(scheduler="processes", num_workers=2)


def test_names_tell_losses_apart(problem, monkeypatch):
    """A scheduler treats results with the same name as one; what memory holds does not count."""
    z, y = problem
    losses = [
        fastce.SoftmaxCrossEntropy(),
        fastce.SoftmaxCrossEntropy(label_smoothing=0.1),
        fastce.SoftmaxCrossEntropy(weight=np.ones(500)),
        fastce.SoftmaxCrossEntropy(weight=np.arange(500.0)),
        fastce.SoftmaxFocalLoss(),
    ]

    def names(chunks, left_in_memory):
        full = functools.partial(np.full, fill_value=left_in_memory)
        monkeypatch.setattr(np, "empty", lambda shape, dtype=float: full(shape, dtype=dtype))
        lazy = [fastce.dask.value_and_grad(loss, z.rechunk(chunks), y) for loss in losses]
        return [array.name for pair in lazy for array in pair]

    for chunks in ((17, 500), (17, 90)):
        assert len(set(names(chunks, 0.0))) == 2 * len(losses)
        assert names(chunks, 1.0) == names(chunks, 2.0)


@pytest.mark.filterwarnings("ignore:Running on a single-machine scheduler")  # Dask of 2024
@pytest.mark.parametrize("chunks", [(7, 40), (7, 9), ((1, 40, 9), (3, 30, 7))])
def test_memory_mapped_sources_of_mixed_chunks(chunks, tmp_path, rng):
    arrays = {
        "z": on_grid(rng, (50, 40)).astype(np.float32),
        "y": rng.integers(40, size=50),
        "weight": rng.uniform(size=50),
        "where": rng.random((50, 40)) < 0.9,
    }
    for name, array in arrays.items():
        np.save(tmp_path / name, array)
    mapped = {name: np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in arrays}
    loss = fastce.SoftmaxCrossEntropy()
    expected = loss.value_and_grad(*map(arrays.get, "zy"), sample_weight=arrays["weight"])
    z = da.from_array(mapped["z"], chunks)
    for y in (mapped["y"], da.from_array(mapped["y"], 13)):
        for weight in (mapped["weight"], da.from_array(mapped["weight"], (50,))):
            value, grad = dask.compute(
                *fastce.dask.value_and_grad(loss, z, y, sample_weight=weight), scheduler="threads"
            )
            assert value == pytest.approx(expected[0], rel=1e-6)
            np.testing.assert_allclose(grad, expected[1], rtol=1e-5, atol=1e-9)
    where = da.from_array(mapped["where"], (20, 11))
    expected = loss(arrays["z"], arrays["y"], where=arrays["where"])
    value = fastce.dask.value(loss, z, mapped["y"], where=where).compute(scheduler="threads")
    assert value == pytest.approx(expected, rel=1e-6)
