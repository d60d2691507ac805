from bench_results import RESULTS

from bench.machine import as_markdown


def table():
    return as_markdown(RESULTS["machine"])
