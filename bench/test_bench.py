"""Every cell and subject on each number of threads: ``pytest bench --benchmark-only``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bench import subjects
from bench.cells import CELLS, SWEEP_SUBJECTS, SWEEPS, Cell
from bench.conftest import LEFT_OUT, REPLAY
from bench.measure import Measured

MISSING = subjects.load()


def cases(threads: list[int], quick: bool) -> Iterator[Any]:
    """Yield cells, thread counts and subjects in the order in which they take turns."""
    places = [(cell, n, None) for cell in CELLS for n in threads]
    if not quick:
        places += [(cell, threads[0], name) for name, sweep in SWEEPS.items() for cell in sweep]
    for cell, n, sweep in places:
        for subject in subjects.subjects_of(cell):
            if sweep is None or subject.name in SWEEP_SUBJECTS:
                name = subject.name.replace(", ", "-")
                name = f"{cell.group}-threads={n}-{name}" + f"-over-{sweep}" * bool(sweep)
                yield pytest.param(cell, n, subject.name, sweep, id=name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "subject" in metafunc.fixturenames:
        options = metafunc.config.option
        given = list(cases(options.threads, options.quick))
        metafunc.parametrize(("cell", "threads", "subject", "sweep"), given)


@pytest.mark.benchmark(timer=REPLAY.clock)
def test_speed(
    benchmark: Any,
    measured: Callable[..., Measured],
    request: pytest.FixtureRequest,
    cell: Cell,
    threads: int,
    subject: str,
    sweep: str | None,
) -> None:
    """Give pytest-benchmark the times of a subject, or fail or skip if it was left out."""
    found = measured(cell, threads, sweep)
    place = {"cell": cell.group, "threads": threads, "subject": subject, "sweep": sweep}
    if subject in found.left_out:
        reason = found.left_out[subject]
        request.config.stash[LEFT_OUT].append({**place, "reason": reason})
        (pytest.fail if subject in subjects.OURS else pytest.skip)(f"{subject}: {reason}")
    samples = found.seconds[subject]
    benchmark.group = f"{cell.group}-threads={threads}"
    benchmark.extra_info.update(
        **place,
        elements=cell.elements,
        classes=cell.classes,
        errors=found.errors.get(subject, {}),
        nanoseconds_per_element=1e9 * min(samples) / cell.elements,
    )
    REPLAY.samples = iter(samples)
    benchmark.pedantic(REPLAY.call, rounds=len(samples))


@pytest.mark.parametrize("peer", sorted(MISSING))
def test_missing_peer(peer: str) -> None:
    """Shown as skipped, so that a comparison with few peers does not pass for a full one."""
    pytest.skip(MISSING[peer])
