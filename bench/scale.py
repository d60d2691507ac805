"""What a split costs: time and bytes of shards, Dask chunks, and an array larger than memory.

Run: python -m bench.scale [shards] [overhead] [cluster] [--gigabytes 20] [--split rows]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial, reduce
from typing import Any

import numpy as np

import fastce
from bench.timing import Budget, Run, least
from fastce import sharded

CLASSES = 32_000
CHUNK_ROWS = 264  # of 32000 float32 classes: 32 MiB


CLOCKS = {"clock": time.perf_counter, "processors": time.process_time}


def problem(rows: int, classes: int, seed: int = 0) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((rows, classes), dtype=np.float32) * 3
    return logits, rng.integers(classes, size=rows)


# The steps of a class-sharded loss ----------------------------------------------------------------


def steps_of_classes(
    loss: Any,
    logits: Any,
    y: Any,
    out: Any,
    first: int = 0,
    classes: int = CLASSES,
    gather: Callable[[Any], Iterable[Any]] = lambda packed: [packed],
) -> tuple[dict[str, Run], Any]:
    """The steps for the classes from ``first`` on, and what is sent to the other processes.

    ``gather`` is called once with what is sent, and returns that of all processes.
    """
    place = (y, first)
    summarise = partial(sharded.summarise, logits, *place, loss, classes=classes)
    part = summarise()
    sent = part.packed()
    merge = partial(reduce, sharded.merge, [sharded.Summary(*x) for x in gather(sent)])
    total = merge()
    steps = {
        "summarise": summarise,
        "merge": merge,
        "one merge": partial(sharded.merge, part, part),
        "finish": partial(sharded.finish, total, y, loss, classes=classes),
        "gradient": partial(
            sharded.gradient, logits, *place, part, total, loss, classes=classes, out=out
        ),
    }
    return steps, sent


def shards() -> None:
    """Print the processor time of each step, per element, or per row if no logits are read."""
    fastce.set_num_threads(1)
    logits, y = problem(CHUNK_ROWS, CLASSES)
    out = np.empty_like(logits)
    columns = "unsplit | summarise | gradient | merge, per row | finish, per row | bytes per row"
    print(f"| loss | {columns} |")
    print("|---|---|---|---|---|---|---|")
    for smoothing in (0.0, 0.1):
        loss = fastce.SoftmaxCrossEntropy(label_smoothing=smoothing)
        steps, sent = steps_of_classes(loss, logits, y, out)
        steps["unsplit"] = partial(loss.value_and_grad, logits, y, out=out)
        best = least(steps, Budget(0, 7), time.process_time)
        elements = ("unsplit", "summarise", "gradient")
        cells = [f"{best[step] / logits.size * 1e9:.2f} ns" for step in elements]
        cells += [f"{best[step] / len(y) * 1e6:.2f} µs" for step in ("one merge", "finish")]
        print(f"| label_smoothing={smoothing} | {' | '.join(cells)} | {8 * len(sent)} |")


# Dask compared with a plain loop ------------------------------------------------------------------


def norms_of(grad: Any) -> Any:
    """The norm of each row as a column, with no temporary of the gradient's size."""
    return np.sqrt(np.einsum("ij,ij->i", grad, grad))[:, None]


def norms_by_chunk(grad: Any) -> Any:
    """The same on dask. (`drop_axis` would be more direct, but copies each chunk first.)"""
    meta = np.empty((0, 0), grad.dtype)
    return grad.map_blocks(norms_of, chunks=(grad.chunks[0], (1,)), dtype=grad.dtype, meta=meta)


def overhead() -> None:
    """Loss and gradient norms, chunk by chunk: dask's time relative to a loop of calls."""
    fastce.set_num_threads(1)
    print("| chunks | threads | time of the | loop | dask | | graph as it is | |")
    print("|---|---|---|---|---|---|---|---|")
    overhead_of_chunks(12, CHUNK_ROWS)
    overhead_of_chunks(4, 4 * CHUNK_ROWS)


def overhead_of_chunks(chunks: int, rows: int) -> None:
    import dask
    import dask.array as da

    import fastce.dask

    loss = fastce.SoftmaxCrossEntropy(reduction="sum")
    block, y = problem(rows, CLASSES)
    logits = da.map_blocks(
        lambda block_id: block,
        chunks=((rows,) * chunks, (CLASSES,)),
        dtype=block.dtype,
        meta=block[:0, :0],
    ).persist(scheduler="sync")  # in memory, as for the loop
    target = np.tile(y, chunks)
    value, grad = fastce.dask.value_and_grad(loss, logits, target)
    norms = norms_by_chunk(grad)

    def one(_: int) -> tuple[float, Any]:
        value, grad = loss.value_and_grad(block, y)
        return value, norms_of(grad)

    def plain(map_: Any) -> tuple[float, Any]:
        values, norms = zip(*map_(one, range(chunks)), strict=True)
        return sum(values), np.concatenate(norms)

    for threads in (1, 2):
        with ThreadPoolExecutor(threads) as pool, dask.config.set(pool=pool):
            scheduler = "sync" if threads == 1 else "threads"
            loop = partial(plain, map if threads == 1 else pool.map)
            graph = partial(dask.compute, value, norms, scheduler=scheduler)
            as_it_is = partial(graph, optimize_graph=False)
            (a, a_norms), (b, b_norms) = loop(), graph()
            assert math.isclose(a, b, rel_tol=1e-14)  # dask adds in another order
            assert np.array_equal(a_norms, b_norms)
            runs = {"loop": loop, "graph": graph, "as it is": as_it_is}
            for name, clock in CLOCKS.items():
                base, *others = least(runs, Budget(0, 40), clock).values()
                cells = [f"{chunks} of {block.nbytes / 2**20:.0f} MiB", str(threads), name]
                cells += [f"{base * 1e3:.0f} ms"]
                for t in others:
                    cells += [f"{t * 1e3:.0f} ms", f"{t / base - 1:+.1%}"]
                print(f"| {' | '.join(cells)} |")


# An array larger than memory ----------------------------------------------------------------------


def made_up(block_info: Any = None) -> Any:
    """A chunk of normal logits, generated from its place in the array."""
    return chunk_at(block_info[None]["chunk-location"], block_info[None]["chunk-shape"])


def chunk_at(place: Any, shape: Any) -> Any:
    rng = np.random.Generator(np.random.SFC64([int(i) for i in place]))
    return rng.standard_normal(shape, dtype=np.float32)


def peak_bytes(dask_worker: Any) -> tuple[int, int]:
    """A worker's peak memory, and the bytes that it has sent to the others."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return peak, int(dask_worker.transfer_outgoing_bytes_total)


def cluster(gigabytes: float, split: str, path: str, stealing: bool) -> None:
    """Loss and gradient norms of a virtual array on two worker processes of 2 GiB each.

    The norms, one per row, are written to a file; those of a few rows are computed again here.
    """
    import dask
    import dask.array as da
    from distributed import Client, LocalCluster

    import fastce.dask

    rows = round(gigabytes * 1e9 / 4 / CLASSES)
    sizes = {"rows": (CHUNK_ROWS, CLASSES), "classes": (4 * CHUNK_ROWS, CLASSES // 4)}
    chunks = da.core.normalize_chunks(sizes[split], (rows, CLASSES), dtype=np.float32)
    meta = np.empty((0, 0), np.float32)
    logits = da.map_blocks(made_up, chunks=chunks, dtype=np.float32, meta=meta)
    target = np.random.default_rng(1).integers(CLASSES, size=rows)
    loss = fastce.SoftmaxCrossEntropy()
    value, grad = fastce.dask.value_and_grad(loss, logits, target, normalizer=float(rows))
    norms = (
        norms_by_chunk(grad)
        if split == "rows"
        else da.sqrt((grad * grad).sum(axis=1, keepdims=True))
    )
    with (
        dask.config.set({"distributed.scheduler.work-stealing": stealing}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit="2GiB",
            dashboard_address=None,
            env={"FASTCE_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        ) as local,
        Client(local) as client,
    ):
        start = time.perf_counter()
        total, norms_of_rows = client.gather(client.compute((value, norms)))
        np.save(path, norms_of_rows)
        took = time.perf_counter() - start
        figures = client.run(peak_bytes).values()
    print(
        f"{logits.nbytes / 1e9:.1f} GB of logits, split over {split}, {logits.npartitions} chunks"
    )
    few = min(chunks[0][0], 16)
    first = [chunk_at((0, i), (chunks[0][0], width))[:few] for i, width in enumerate(chunks[1])]
    _, expected = loss.value_and_grad(np.hstack(first), target[:few], normalizer=float(rows))
    np.testing.assert_allclose(norms_of_rows[:few], norms_of(expected), rtol=1e-5)
    print(f"loss {float(total):.9f}; {norms_of_rows.shape[0]} gradient norms in {path}")
    print(f"{took:.0f} s on {len(figures)} workers; peak memory of each, and bytes sent by it:")
    for peak, sent in figures:
        print(f"  {peak / 2**20:.0f} MiB, {sent / rows:.0f} bytes per row of the array")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=["shards", "overhead", "cluster"])
    parser.add_argument("--gigabytes", type=float, default=20)
    parser.add_argument("--split", choices=["rows", "classes"], default="rows")
    parser.add_argument("--no-stealing", action="store_true", help="dask moves no planned task")
    parser.add_argument("--norms", default="norms.npy", help="where to write the gradient norms")
    options = parser.parse_args()
    for part in options.parts:
        if part == "cluster":
            cluster(options.gigabytes, options.split, options.norms, not options.no_stealing)
        else:
            {"shards": shards, "overhead": overhead}[part]()


if __name__ == "__main__":
    main()
