"""Builds a copy of the package with Clang, and runs the tests that depend on the compiler.

    python tools/clang.py               with clang++
    python tools/clang.py clang++-19    with another

The bits must be the same as GCC's, which tests/kernels/golden_bits.txt records. Further arguments
are passed to pytest, in place of the tests below.
"""

from __future__ import annotations

import sys

import build_copy

TESTS = [
    f"tests/kernels/test_{name}.py"
    for name in (
        "golden_bits",
        "instruction_sets",
        "elementary",
        "plans",
        "rows_alone_and_in_batches",
    )
]
CHECK = """\
import fastce
assert fastce.__file__.startswith({tree!r}), fastce.__file__
assert "clang" in fastce._core.COMPILER.lower(), fastce._core.COMPILER
print(fastce._core.COMPILER, flush=True)
"""


def main() -> None:
    compiler, *arguments = sys.argv[1:] or ["clang++"]
    build_copy.need(compiler)
    with build_copy.temporary_copy("clang") as tree:
        c_compiler = compiler.replace("clang++", "clang")
        said = build_copy.build(tree, flags=["-Wall"], CC=c_compiler, CXX=compiler)
        if "_simd/" in said and "warning:" in said:
            raise SystemExit(said)
        environment = {"FASTCE_BUILD_TEST_VARIANTS": "1"}
        check = [sys.executable, "-c", CHECK.format(tree=str(tree))]
        tests = [*build_copy.PYTEST, "-n", "auto", *(arguments or TESTS)]
        for command in (check, tests):
            build_copy.run_in(tree, command, environment, check=True)


if __name__ == "__main__":
    main()
