from bench_results import RESULTS

from bench.report import summary_table


def table():
    return summary_table(RESULTS)
