"""How noisy the run was, what more threads brought, and who was left out where."""

from bench_results import RESULTS

from bench.report import flatness, left_out, speed_up_table, spread


def table():
    few, many = (f(RESULTS["machine"]["threads"]) for f in (min, max))
    parts = [
        spread(RESULTS),
        "How much the cost of an element varies over the sweeps of the plots:",
        flatness(RESULTS),
    ]
    if few < many:
        parts += [f"Time on {few} thread over time on {many}:", speed_up_table(RESULTS)]
    return "\n\n".join([*parts, "Left out of a cell:", left_out(RESULTS)])
