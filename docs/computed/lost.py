from bench_results import RESULTS

from bench.report import missed


def table():
    return missed(RESULTS)
