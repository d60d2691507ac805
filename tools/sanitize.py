"""Builds a copy of the package under sanitizers, and runs the tests there.

    python tools/sanitize.py                  AddressSanitizer and UndefinedBehaviorSanitizer
    python tools/sanitize.py thread           ThreadSanitizer, on the tests that use threads
    python tools/sanitize.py address -k focal further words are handed to pytest

Every array of NumPy is a heap block of its exact size, so that one element too far is seen. Leaks
are not looked for: the interpreter itself does not free all it has. GCC on Linux is needed.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import build_copy

# Two variants, for each takes minutes to compile; the guard pages are there for all of them.
VARIANTS = ("_core", "_core_avx2")
COMMON = ("-O1", "-g1", "-fno-omit-frame-pointer")
THREAD_TESTS = (
    "tests/call/test_races.py",
    "tests/call/test_threads.py",
    "-k",
    "(thread or caller) and not rewritten",  # those race on purpose, on arrays of the caller's
)
# Processes of their own, more memory than there is, a fault on purpose and what the compiler made
# of all variants are for the plain build.
PLAIN = (
    "test_process_state",
    "test_faults",
    "test_examples",
    "test_pages",
    "test_documents",
    "test_instruction_sets",
    "too_far",
    "are_typed",
    "no_memory",
    "leak_nothing",
    "no_thread",
)
ADDRESS_TESTS = ("tests", "-k", " and ".join(f"not {name}" for name in PLAIN))


def library(name: str) -> str:
    done = subprocess.run(
        ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def main() -> None:
    kind = sys.argv[1] if len(sys.argv) > 1 else "address"
    if kind not in ("address", "thread"):
        raise SystemExit("usage: python tools/sanitize.py [address | thread] [arguments of pytest]")
    sanitizers = "address,undefined" if kind == "address" else "thread"
    libraries = ("libasan.so", "libubsan.so") if kind == "address" else ("libtsan.so",)
    arguments = sys.argv[2:] or (ADDRESS_TESTS if kind == "address" else THREAD_TESTS)
    flags = [*COMMON, f"-fsanitize={sanitizers}"]
    if kind == "address":
        flags.append("-fno-sanitize-recover=all")
    with tempfile.TemporaryDirectory(prefix="fastce-sanitize-") as folder:
        tree, log = Path(folder) / "tree", Path(folder) / "log"
        build_copy.copy_tree(tree)
        began = time.monotonic()
        build_copy.build(tree, VARIANTS, flags, LDFLAGS=f"-fsanitize={sanitizers}")
        print(f"built with -fsanitize={sanitizers} in {time.monotonic() - began:.0f} s", flush=True)
        # libstdc++ has to be there before the sanitizer looks for the functions that it wraps.
        preload = " ".join(library(name) for name in (*libraries, "libstdc++.so.6"))
        options = f"log_path={log}:halt_on_error=1"
        environment = {
            **build_copy.environment(tree),
            "LD_PRELOAD": preload,
            "PYTHONMALLOC": "malloc",
            "ASAN_OPTIONS": f"{options}:detect_leaks=0:allocator_may_return_null=1",
            "UBSAN_OPTIONS": f"{options}:print_stacktrace=1",
            "TSAN_OPTIONS": f"log_path={log}:halt_on_error=0:exitcode=0",
        }
        began = time.monotonic()
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        code = subprocess.run(
            [*command, *arguments], cwd=tree, env=environment, check=False
        ).returncode
        logs = sorted(tree.parent.glob("log.*"))
        reports = [path.read_text("utf-8", "replace") for path in logs]
        print("\n".join(reports))
        print(f"{time.monotonic() - began:.0f} s, {len(reports)} reports, exit code {code}")
    # ThreadSanitizer does not know the interpreter's lock: what counts are reports in our modules.
    ours = [text for text in reports if kind == "address" or "_core" in text]
    if code or ours:
        raise SystemExit("not clean")


if __name__ == "__main__":
    main()
