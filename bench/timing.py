"""Interleaved timing: every subject of a cell takes its turn in every round.

On a shared machine the noise of a minute then hits all subjects alike, and the ratios within a
cell stay meaningful where absolute times do not.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Run = Callable[[], Any]

SHORTEST_SAMPLE = 5e-3  # seconds: long against the clock's resolution and a timer interrupt
WARMED_BELOW = 20e-3  # seconds: longer calls stream through the caches whatever came before
PAUSE = 2e-3  # seconds: lets the worker threads of the subject before stop spinning


@dataclass(frozen=True)
class Budget:
    """How long a cell may be timed: at least ``rounds[0]`` rounds, at most ``rounds[1]``."""

    seconds: float
    rounds: tuple[int, int]


FULL = Budget(1.5, (4, 30))
SWEEP = Budget(0.7, (3, 15))
QUICK = Budget(0.5, (3, 10))


def call_seconds(run: Run, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def prepare(makers: Mapping[str, Callable[[], Run]]) -> tuple[dict[str, Run], dict[str, str]]:
    """Make each run and call it once; return those that work, and what the others raised."""
    runs, failed = {}, {}
    for name, make in makers.items():
        try:
            run = make()
            run()
            runs[name] = run
        except Exception as error:
            text = str(error).strip().partition("\n")[0]
            failed[name] = f"{type(error).__name__}: {text}"[:160]
    return runs, failed


def least(runs: Mapping[str, Run], budget: Budget) -> dict[str, float]:
    """Seconds a call, the least of the rounds, for each of ``runs``."""
    return {name: min(samples) for name, samples in interleave(runs, budget).items()}


def interleave(runs: Mapping[str, Run], budget: Budget) -> dict[str, list[float]]:
    """Seconds a call, one sample a round, for each of ``runs``, which have all been called once."""
    seconds = {}
    for name, run in runs.items():
        seconds[name] = call_seconds(run, 1)
        if seconds[name] < WARMED_BELOW:
            seconds[name] = min(call_seconds(run, 1), call_seconds(run, 1))
    calls = {name: max(1, math.ceil(SHORTEST_SAMPLE / seconds[name])) for name in runs}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    fewest, most = budget.rounds
    started = time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        for done in range(most):
            if done >= fewest and time.perf_counter() - started > budget.seconds:
                break
            for name, run in runs.items():
                time.sleep(PAUSE)
                if seconds[name] < WARMED_BELOW:
                    run()
                samples[name].append(call_seconds(run, calls[name]))
    finally:
        gc.enable()
    return samples
