"""Searches for calls that end in neither a result nor a clear error, for as many minutes as given.

    python tools/fuzz.py 30

It runs the search of tests/test_fuzz.py round after round, each with a seed of its own, which is
printed: `--hypothesis-seed` repeats a round. What it finds becomes a test of its own.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = 1000  # of each search in a round


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit("usage: python tools/fuzz.py MINUTES")
    end = time.monotonic() + 60 * float(sys.argv[1])
    rounds = 0
    while time.monotonic() < end:
        seed = secrets.randbelow(1 << 32)
        command = [sys.executable, "-m", "pytest", "-q", "-x", f"--hypothesis-seed={seed}"]
        done = subprocess.run(
            [*command, "tests/test_fuzz.py"],
            cwd=ROOT,
            env={**os.environ, "FASTCE_FUZZ_EXAMPLES": str(EXAMPLES)},
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"the round of --hypothesis-seed={seed} found something")
        rounds += 1
    print(f"{rounds} rounds of {EXAMPLES} examples a search, and nothing found")


if __name__ == "__main__":
    main()
