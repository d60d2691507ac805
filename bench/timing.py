"""Interleaved timing: every run takes its turn in every round.

On a shared machine the noise of a minute then hits all runs alike, and the ratios within a
comparison stay meaningful even if absolute times do not. All benchmarks in this folder use it.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Run = Callable[[], Any]
Clock = Callable[[], float]

SHORTEST_SAMPLE = 5e-3  # seconds: long compared with the clock's resolution and a timer interrupt
WARMED_BELOW = 20e-3  # seconds: longer calls stream through the caches whatever came before
PAUSE = 2e-3  # seconds: lets worker threads of the previous run stop spinning


class Budget(NamedTuple):
    """How long all runs together may be timed, and the least number of rounds."""

    seconds: float
    rounds: int


FULL = Budget(1.5, 4)
SWEEP = Budget(0.7, 3)
QUICK = Budget(0.5, 3)


def call_seconds(run: Run, calls: int, clock: Clock) -> float:
    start = clock()
    for _ in range(calls):
        run()
    return (clock() - start) / calls


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


def least(
    runs: Mapping[Any, Run], budget: Budget, clock: Clock = time.perf_counter
) -> dict[Any, float]:
    """Seconds per call, the least of the rounds, for each of ``runs``."""
    return {name: min(samples) for name, samples in interleave(runs, budget, clock).items()}


def interleave(
    runs: Mapping[Any, Run],
    budget: Budget,
    clock: Clock = time.perf_counter,
    before_turn: Callable[[Any], Any] = lambda name: None,
) -> dict[Any, list[float]]:
    """Seconds per call, one sample per round, for each of ``runs``, all of which were called once.

    ``time.process_time`` as the clock counts what the processors spend, over all threads: other
    programs disturb it less. ``before_turn(name)`` is called before each turn, outside the time.
    """
    samples: dict[Any, list[float]] = {name: [] for name in runs}
    calls = dict.fromkeys(runs, 1)
    short = set()
    started = time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        for name, run in runs.items():
            before_turn(name)
            seconds = call_seconds(run, 1, clock)
            if seconds < WARMED_BELOW:
                short.add(name)
                seconds = min(call_seconds(run, 1, clock), call_seconds(run, 1, clock))
                calls[name] = math.ceil(SHORTEST_SAMPLE / max(seconds, 1e-9))
            else:
                samples[name].append(seconds)
        rounds = 0 if short else 1
        while rounds < budget.rounds or time.perf_counter() - started < budget.seconds:
            rounds += 1
            for name, run in runs.items():
                before_turn(name)
                time.sleep(PAUSE)
                if name in short:
                    run()
                samples[name].append(call_seconds(run, calls[name], clock))
    finally:
        gc.enable()
    return samples
