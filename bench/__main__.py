"""``python -m bench``: the whole comparison, as one Markdown table, JSON and plots.

Nothing heavy is imported at the top: worker processes import this module again before they are
held to their threads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench.threads import available_cpus

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, no sweeps, no plots")
    parser.add_argument(
        "--only", default="*", metavar="PATTERN", help="cells whose name matches, e.g. '*x32000*'"
    )
    parser.add_argument(
        "--subjects", default="*", metavar="NAMES", help="e.g. limit,fastce,JAX (patterns too)"
    )
    parser.add_argument("--threads", default="1,2", metavar="N,N", help="default: 1,2")
    parser.add_argument(
        "--output",
        type=Path,
        help=f"where to write table.md, summary.md, results.json and plots "
        f"(default: {RESULTS.parent.name}/{RESULTS.name} for a full run, nowhere for a part)",
    )
    arguments = parser.parse_args()
    threads = [int(n) for n in arguments.threads.split(",")]
    threads = [n for n in threads if n <= len(available_cpus())] or [1]
    partial = arguments.quick or arguments.only != "*" or arguments.subjects != "*"

    from bench.run import run

    return run(
        threads=threads,
        quick=arguments.quick,
        only=arguments.only,
        names=arguments.subjects.split(","),
        sweeps=not partial,
        output=arguments.output or (None if partial else RESULTS),
    )


if __name__ == "__main__":
    raise SystemExit(main())
