"""Perplexity, accuracy and calibration of a language model, from logits larger than memory.

In a checkout: pip install .; python examples/evaluate_logits.py [LOGITS.npy TARGET.npy]

The logits, an array (tokens, vocabulary) of any floating type, are memory-mapped and read once.
Without arguments, the example first writes float16 logits to a temporary file. From a shell,
``python -m fastce evaluate LOGITS.npy TARGET.npy`` does the same.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from fastce.evaluation import evaluate


def make_files(folder, tokens=2000, vocabulary=16_000):
    """Write logits that favour the target by 6 in three tokens out of four."""
    rng = np.random.default_rng(0)
    target = rng.integers(vocabulary, size=tokens)
    logits = np.lib.format.open_memmap(
        folder / "logits.npy", mode="w+", dtype=np.float16, shape=(tokens, vocabulary)
    )
    for row, label in enumerate(target):
        logits[row] = rng.standard_normal(vocabulary, dtype=np.float32)
        logits[row, label] += 6 * (row % 4 != 0)
    logits.flush()
    np.save(folder / "target.npy", target)
    return folder / "logits.npy", folder / "target.npy"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        files = sys.argv[1:] or make_files(Path(folder))
        logits, target = np.load(files[0], mmap_mode="r"), np.load(files[1])
        result = evaluate(logits, target)
        print(f"{len(target)} tokens, vocabulary {logits.shape[1]}, {logits.dtype}")
        print(result)
        print(f"among the ten most probable tokens: {result.top_k(10):.1%}")
        del logits  # unmap the file before its folder is deleted
