"""The bits of a few hundred results, which no compiler may change: one digest for each.

tests/kernels/golden_bits.txt holds them by variant of the kernels, tools/golden_bits.py writes it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from batches import some_ignored
from cases import CASES, DTYPES, Case

import fastce

FILE = Path(__file__).resolve().parents[1] / "kernels" / "golden_bits.txt"
# Vectors of 64 bytes have the same bits on AVX2 and on AVX-512: "wide" has no column.
VARIANTS = ("scalar", "baseline", "avx2", "avx512")
COLUMN = {**{variant: variant for variant in VARIANTS}, "wide": "avx512"}

# Besides those of the list, whose batches are small: long rows, many blocks, several threads.
LARGE = [
    Case(f"{shape}, axis {axis}", loss, some_ignored(-100), shape, options={"axis": axis})
    for loss in ("SoftmaxCrossEntropy", "SoftmaxFocalLoss")
    for shape, axis in (
        ((1500, 10), -1),
        ((129, 1000), -1),
        ((2, 70_000), -1),
        ((2, 19, 4099), 1),
        ((2, 1000, 33), 1),
    )
]


def digest(*arrays: np.ndarray) -> str:
    """Digest the bits of arrays; all bit patterns of NaN count as the same."""
    total = hashlib.blake2b(digest_size=4)
    for array in arrays:
        bits = np.array(array)
        bits[np.isnan(bits)] = np.nan
        total.update(bits.tobytes())
    return total.hexdigest()


def results() -> Iterator[tuple[str, Callable[[], tuple[np.ndarray, ...]]]]:
    """Name each result, with a function that computes it in the variant in use."""
    for case in (*CASES, *LARGE):
        for dtype in DTYPES if case in LARGE else ("float32", "float64"):

            def evaluate(case: Case = case, dtype: str = dtype) -> tuple[np.ndarray, ...]:
                batch = case.batch(dtype)
                return case.build().value_grad_hess(batch.logits, batch.target, **batch.call)

            yield f"{dtype} {case}", evaluate
    z = np.random.default_rng(0).normal(scale=3, size=(35, 19))
    for name in ("softmax", "log_softmax", "logsumexp"):
        for dtype, axis in ((dtype, axis) for dtype in DTYPES for axis in (0, 1)):

            def evaluate(name: str = name, dtype: str = dtype, axis: int = axis):
                return (getattr(fastce, name)(z.astype(DTYPES[dtype]), axis=axis),)

            yield f"{dtype} {name}, axis {axis}", evaluate


def digests() -> dict[str, str]:
    """Digest every result in the variant in use, by name."""
    return {name: digest(*evaluate()) for name, evaluate in results()}


def recorded() -> dict[str, dict[str, str]]:
    """Read the file: by variant, then by name."""
    columns: dict[str, dict[str, str]] = {variant: {} for variant in VARIANTS}
    for line in FILE.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            *row, name = line.split(" ", len(VARIANTS))
            for variant, value in zip(VARIANTS, row, strict=True):
                columns[variant][name] = value
    return columns
