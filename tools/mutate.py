"""Breaks the package on purpose, one way at a time, and checks that the tests notice.

Each mutation is a replacement in one file of a copy of the package, which is built with the
baseline variant only. A mutation whose text does not occur exactly once in the source is an error,
and so is one that survives the tests.

    python tools/mutate.py              all of them: about ten minutes
    python tools/mutate.py sign label   those whose name contains one of the words
    python tools/mutate.py --check      only checks that every text occurs
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path

import build_copy
from mutations import MUTATIONS, PLANTED, Mutation

VARIANTS = ("_core",)
FLAGS = ("-O1",)  # the mutations are about what is computed, not how fast


def check(tree: Path) -> None:
    """Check that the text of every mutation occurs exactly once."""
    wrong = [
        f"{m.name}: {count} times in {m.file}: {m.old}"
        for m in (*MUTATIONS, *PLANTED.values())
        if (count := (tree / "fastce" / m.file).read_text("utf-8").count(m.old)) != 1
    ]
    if wrong:
        raise SystemExit("these mutations have to follow the source:\n" + "\n".join(wrong))


def tests_pass(tree: Path, tests: tuple[str, ...], *, show: bool) -> bool:
    """Run tests in their own process, because a mutation may kill it."""
    command = [*build_copy.PYTEST, "-x", *(f"tests/{test}" for test in tests)]
    try:
        done = build_copy.run_in(tree, command, {}, capture_output=True, timeout=900)
    except subprocess.TimeoutExpired:
        return False
    if done.returncode in (2, 3, 4, 5):  # pytest did not get as far as a test
        raise SystemExit(done.stdout + done.stderr)
    if done.returncode and show:
        print(done.stdout)
    return done.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", help="mutations whose name contains one of these")
    parser.add_argument("--check", action="store_true", help="only check the texts")
    arguments = parser.parse_args()
    check(build_copy.ROOT)
    chosen = [
        m for m in MUTATIONS if not arguments.words or any(w in m.name for w in arguments.words)
    ]
    if arguments.check:
        print(f"{len(MUTATIONS)} mutations, whose texts all occur once")
        return
    survived = survivors(chosen)
    print(f"{len(chosen) - len(survived)} of {len(chosen)} caught")
    if survived:
        raise SystemExit("survived: " + "; ".join(survived))


def survivors(chosen: list[Mutation]) -> list[str]:
    """Apply the mutations one by one; return the names of those that the tests do not notice."""
    survived = []
    with build_copy.temporary_copy("mutate") as tree:
        build_copy.build(tree, VARIANTS, FLAGS)
        files = tuple(sorted({test for m in chosen for test in m.tests}))
        if not tests_pass(tree, files, show=True):
            raise SystemExit("the tests fail before anything is broken")
        print(f"unbroken, the tests pass: {', '.join(files)}", flush=True)
        # Python files first: they need the unbroken build, and each kernel is rebuilt anyway.
        for m in sorted(chosen, key=lambda m: not m.file.endswith(".py")):
            began = time.monotonic()
            unbroken = m.apply(tree)
            if not m.file.endswith(".py"):
                build_copy.build(tree, VARIANTS, FLAGS)
            caught = not tests_pass(tree, m.tests, show=False)
            (tree / "fastce" / m.file).write_text(unbroken, "utf-8")
            seconds = time.monotonic() - began
            print(f"{'caught  ' if caught else 'SURVIVED'}  {m.name} ({seconds:.0f} s)", flush=True)
            if not caught:
                survived.append(m.name)
    return survived


if __name__ == "__main__":
    main()
