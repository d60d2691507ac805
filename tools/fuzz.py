"""Searches for calls that end in neither a result nor a clear error, or in a wrong result.

    python tools/fuzz.py 30     for half an hour

It runs the tests named below in rounds, each with its own seed, which is printed if a test fails.
`--hypothesis-seed` repeats a round. A bug that is found becomes a regression test.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = (
    "tests/call/test_random_arguments.py",
    "tests/kernels/test_random_batches.py",
    "tests/kernels/test_random_calls.py",
    "tests/test_random_public_calls.py",
    "tests/kernels/test_rows_alone_and_in_batches.py::test_random_rows_alone",
)
EXAMPLES = 1000  # of each search in a round


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python tools/fuzz.py MINUTES")
    began = time.monotonic()
    end = began + 60 * float(sys.argv[1])
    rounds = 0
    while time.monotonic() < end:
        seed = secrets.randbelow(1 << 32)
        command = [sys.executable, "-m", "pytest", "-q", "-x", f"--hypothesis-seed={seed}"]
        done = subprocess.run(
            [*command, *TESTS],
            cwd=ROOT,
            env={**os.environ, "FASTCE_FUZZ_EXAMPLES": str(EXAMPLES)},
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"the round of --hypothesis-seed={seed} found something")
        rounds += 1
    minutes = (time.monotonic() - began) / 60
    print(f"{rounds} rounds of {EXAMPLES} examples a search in {minutes:.0f} min: nothing found")


if __name__ == "__main__":
    main()
