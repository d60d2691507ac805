"""Writes tests/kernels/golden_bits.txt: digests of a few hundred results, by variant.

    python tools/golden_bits.py

The package must have been built with the variants for tests, and the processor must have AVX2. Run
it after a change of the kernels that alters bits on purpose; the diff shows which results changed.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import golden

from fastce._call import variants

HEADER = f"""\
# BLAKE2 digests (32 bits) of value, gradient and Hessian, in these variants of the x86-64 kernels:
# {" ".join(golden.VARIANTS)}. Written by tools/golden_bits.py.
"""


def main() -> None:
    able = {column: name for name, column in golden.COLUMN.items() if name in variants.available()}
    missing = set(golden.VARIANTS) - set(able)
    if missing:
        raise SystemExit(f"no {', '.join(sorted(missing))}: make golden builds all of them")
    columns = []
    for column in golden.VARIANTS:
        with variants.using(able[column]):
            columns.append(golden.digests())
    lines = [" ".join([*(column[name] for column in columns), name]) for name in columns[0]]
    golden.FILE.write_text(HEADER + "\n".join(lines) + "\n", "utf-8")
    print(f"{len(lines)} results in {len(columns)} variants")


if __name__ == "__main__":
    main()
