"""How noisy the run was, what more threads brought, and who was left out where."""

from bench_results import RESULTS

from bench.report import flatness, left_out, speed_up_table, spread


def table():
    few, many = (f(RESULTS["machine"]["threads"]) for f in (min, max))
    parts = [
        spread(RESULTS),
        "In the sweeps over classes and rows, which Performance plots:",
        flatness(RESULTS),
    ]
    if few < many:
        parts += [
            f"The speed-up is the time on {few} thread divided by the time on {many} threads:",
            speed_up_table(RESULTS),
        ]
    return "\n\n".join([*parts, "These peers were left out of a cell:", left_out(RESULTS)])
