"""How noisy the run was, what more threads brought, and who was left out where."""

from bench_results import RESULTS

from bench.report import flatness, left_out, speed_up_table, spread


def table():
    few, many = (f(RESULTS["machine"]["threads"]) for f in (min, max))
    parts = [
        spread(RESULTS),
        "The variation of the cost per element over the sweeps of the plots:",
        flatness(RESULTS),
    ]
    if few < many:
        parts += [f"Time on {few} thread divided by time on {many}:", speed_up_table(RESULTS)]
    return "\n\n".join([*parts, "Peers left out of a cell:", left_out(RESULTS)])
