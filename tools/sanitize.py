"""Builds a copy of the package under a sanitizer, and runs tests there.

    python tools/sanitize.py address           AddressSanitizer and UndefinedBehaviorSanitizer
    python tools/sanitize.py thread            ThreadSanitizer, on the tests that use threads
    python tools/sanitize.py integer           Clang's checks of integer overflow and conversion
    python tools/sanitize.py memory            valgrind, which finds uninitialised memory
    python tools/sanitize.py address -k focal  further arguments are passed to pytest
    python tools/sanitize.py thread --prove    plants a bug, which the tool has to report

Every NumPy array is a heap block of its exact size, so an access one element too far is detected.
Leaks are not checked, because the interpreter itself does not free everything. This needs Linux and
GCC, Clang for `integer`, and valgrind for `memory`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import build_copy
from mutations import PLANTED

COMMON = ("-O1", "-g1", "-fno-omit-frame-pointer")
# Python's own flags let signed integers wrap, which would turn off the check of their overflow.
NO_WRAP = "-fno-wrapv"
# Only for the plain build: tests that start processes, request more memory than there is, limit
# memory or time, cause a fault on purpose, or inspect the compiled variants. If the interpreter
# ends a daemon thread inside a call, AddressSanitizer reports its own use of the unwound stack.
PLAIN = (
    "test_process_state",
    "test_faults",
    "test_examples",
    "test_pages",
    "test_documents",
    "test_instruction_sets",
    "larger_than_the_memory",
    "import_time",
    "too_far",
    "are_typed",
    "no_memory",
    "leak_nothing",
    "no_thread",
    "daemon_thread",
)
EXCEPT_PLAIN = ("-k", " and ".join(f"not {name}" for name in PLAIN))
CXX = {"gcc": "g++", "clang": "clang++"}
# Errors of the interpreter must not use up the number that valgrind reports.
VALGRIND = ("valgrind", "--track-origins=yes", "--num-callers=20", "--error-limit=no")
# Few tests, because valgrind takes fifty times as long: every loss and option, and rows of all
# kinds, alone and in batches. Comparing results makes a branch depend on each uninitialised number.
# Under valgrind, long double is double, so float64 cannot be compared with the reference, and zeros
# of fused operations have other signs, so elements alone differ from those in a batch.
MEMORY_TESTS = (
    *(f"tests/kernels/test_{name}.py" for name in ("softmax_losses", "sigmoid_losses")),
    *(f"tests/kernels/test_{name}.py" for name in ("statistics", "rows_alone_and_in_batches")),
    "-k",
    "(equals_the_reference and (avx2 or baseline) and -float32)"
    " or (test_statistics and avx2 and float32 and (7- or 300-))"
    " or (row_alone_is and avx2 and (float32-rows or float32-planes or float64-gathered))",
)


@dataclass(frozen=True)
class Kind:
    sanitizers: str
    variants: tuple[str, ...]
    tests: tuple[str, ...]
    flags: tuple[str, ...] = ()
    preloaded: tuple[str, ...] = ()  # the sanitizer's libraries
    compiler: str = "gcc"
    ours: str = ""  # matches the reports that count
    meant: str = "(?!)"  # except those that match this


EVERY = ("_core", "_core_avx2", "_core_avx512")
OUR_MODULE = r"_core\w*\.cpython|\.(?:pxi|hpp):\d|__pyx_\w*6fastce"
KINDS = {
    "address": Kind(
        "address,undefined",
        EVERY,
        ("tests", *EXCEPT_PLAIN),
        (NO_WRAP, "-fno-sanitize-recover=all"),
        ("libasan.so", "libubsan.so"),
    ),
    # It does not understand the interpreter's locks, so only reports in our modules count.
    "thread": Kind(
        "thread",
        EVERY,
        (
            *("tests/call/test_races.py", "tests/call/test_threads.py"),
            # The tests left out race on purpose, on the caller's arrays.
            *("-k", "(thread or caller or shared or smooths) and not rewritten"),
        ),
        (),
        ("libtsan.so",),
        ours=OUR_MODULE,
    ),
    # All variants use integers in the same way. Hashes that Cython adds overflow on purpose.
    # Changes of sign are not checked: strides, which may be negative, are compared with sizes.
    "integer": Kind(
        "signed-integer-overflow,unsigned-integer-overflow,integer-divide-by-zero,shift,"
        "implicit-signed-integer-truncation,implicit-unsigned-integer-truncation",
        ("_core", "_core_avx2"),
        ("tests/kernels", "tests/call", *EXCEPT_PLAIN),
        (NO_WRAP,),
        ("libclang_rt.ubsan_standalone-x86_64.so",),
        "clang",
        r"(?:_kernels|_simd)/\S+ runtime error",
        # Unsigned differences that wrap (labels and bits of numbers are compared with a limit), and
        # byte swaps of 16-bit numbers.
        r"labels\.pxi\S+ runtime error: unsigned|reductions\.hpp\S+ runtime error: negation of"
        r"|numbers\.pxi\S+ .* to type 'unsigned short' changed",
    ),
    # Valgrind does not support AVX-512. It reports branches that depend on uninitialised numbers,
    # and where these come from.
    "memory": Kind("", ("_core", "_core_avx2"), MEMORY_TESTS, ours=OUR_MODULE),
}


def library(compiler: str, name: str) -> str:
    done = subprocess.run(
        [compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True
    )
    if not Path(done.stdout.strip()).is_absolute():
        raise SystemExit(f"{compiler} has no {name}")
    return done.stdout.strip()


def reports_of(text: str) -> list[str]:
    """Split a log into reports: unique lines of UBSan, or blocks of the other tools."""
    if "runtime error" in text and "====" not in text:
        return sorted(set(text.splitlines()))
    return re.split(r"\n\n|==\d+== \n(?===\d+== \w)", text)


def run(name: str, variants: Sequence[str], tests: Sequence[str], tree: Path) -> list[str]:
    """Build a copy of the sources and run tests there; return the reports that count.

    If tests fail, the last item is the exit code.
    """
    kind, log = KINDS[name], tree.parent / "log"
    sanitize = [f"-fsanitize={kind.sanitizers}"] if kind.sanitizers else []
    began = time.monotonic()
    build_copy.build(
        tree,
        variants,
        [*COMMON, *sanitize, *kind.flags],
        LDFLAGS=" ".join(sanitize),
        CC=kind.compiler,
        CXX=CXX[kind.compiler],
    )
    print(f"{name}: built in {time.monotonic() - began:.0f} s", flush=True)
    # libstdc++ must be loaded before the sanitizer looks up the functions that it wraps.
    preloaded = [library(kind.compiler, x) for x in kind.preloaded]
    if preloaded:
        preloaded.append(library("gcc", "libstdc++.so.6"))
    options = f"log_path={log}:halt_on_error=1"
    environment = {
        "LD_PRELOAD": " ".join(preloaded),
        "ASAN_OPTIONS": f"{options}:detect_leaks=0:allocator_may_return_null=1",
        "UBSAN_OPTIONS": f"log_path={log}:halt_on_error=0:print_stacktrace=0",
        "TSAN_OPTIONS": f"log_path={log}:halt_on_error=0:exitcode=0",
    }
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        environment["PYTHON_GIL"] = "0"
    else:  # without the GIL there is only one allocator
        environment["PYTHONMALLOC"] = "malloc"
    under = [*VALGRIND, f"--log-file={log}.%p"] if name == "memory" else []
    began = time.monotonic()
    done = build_copy.run_in(tree, [*under, *build_copy.PYTEST, *tests], environment)
    logs = [path.read_text("utf-8", "replace") for path in sorted(tree.parent.glob("log.*"))]
    reports = [x for text in logs for x in reports_of(text) if re.search(kind.ours, x)]
    reports = [x for x in reports if not re.search(kind.meant, x)]
    print("\n".join(reports))
    took = time.monotonic() - began
    print(f"{name}: {took:.0f} s, {len(reports)} reports, exit code {done.returncode}", flush=True)
    return [*reports, f"exit code {done.returncode}"] if done.returncode else reports


def main() -> None:
    name, *arguments = sys.argv[1:] or ["address"]
    if name not in KINDS:
        raise SystemExit(
            f"usage: python tools/sanitize.py [{' | '.join(KINDS)}] [--prove | pytest's words]"
        )
    kind = KINDS[name]
    build_copy.need(CXX[kind.compiler], *(["valgrind"] if name == "memory" else []))
    with build_copy.temporary_copy("sanitize") as tree:
        if arguments != ["--prove"]:
            if run(name, kind.variants, arguments or kind.tests, tree):
                raise SystemExit("not clean")
            return
        fault = PLANTED[name]
        fault.apply(tree)
        reports = run(name, ["_core"], [f"tests/{fault.tests[0]}", *fault.tests[1:]], tree)
        if not any("exit code" not in report for report in reports):
            raise SystemExit(f"{name} did not report {fault.name}")
        print(f"{name} reports {fault.name}")


if __name__ == "__main__":
    main()
