"""The noise of the run, the speedup from threads, and the peers that were left out of a cell."""

from bench_results import RESULTS

from bench.report import flatness, left_out, speed_up_table, spread


def table():
    few, many = (f(RESULTS["machine"]["threads"]) for f in (min, max))
    parts = [
        spread(RESULTS),
        "[Performance](performance.md) plots the sweeps over classes and rows. In them:",
        flatness(RESULTS),
    ]
    if few < many:
        parts += [
            f"This speedup is the time on {few} thread divided by the time on {many} threads:",
            speed_up_table(RESULTS),
        ]
    return "\n\n".join([*parts, "**Peers left out of a cell**", left_out(RESULTS)])
