"""``python -m bench``: pytest-benchmark on every cell, and the report of what it measured."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import RESULTS, report


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds, no sweeps")
    parser.add_argument("-k", metavar="EXPRESSION", help="a part, in pytest's way: '32000 and JAX'")
    parser.add_argument("--threads", default="1,2", metavar="N,N", help="default: 1,2")
    parser.add_argument(
        "--output",
        type=Path,
        help="where to write table.md, summary.md and results.json "
        "(default: bench/results for a full run, nowhere for a part)",
    )
    arguments = parser.parse_args()
    partial = arguments.quick or arguments.k
    output = arguments.output or (None if partial else RESULTS)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "benchmark.json"
        command = [sys.executable, "-m", "pytest", str(Path(__file__).parent), "--benchmark-only"]
        command += [f"--benchmark-json={file}", "--benchmark-quiet", "--threads", arguments.threads]
        command += ["--quick"] * arguments.quick + ["-k", arguments.k] * bool(arguments.k)
        code = subprocess.call(command)
        if file.exists() and file.stat().st_size:
            results = report.read(file)
            print(report.full(results))
            if output is not None:
                report.write(results, output)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
