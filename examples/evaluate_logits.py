"""Perplexity and greedy-match rate of a language model's logits, from a file larger than memory.

    python examples/evaluate_logits.py [LOGITS.npy TARGET.npy]

The logits, an array (tokens, vocabulary) of any floating type, are memory-mapped and read once, in
chunks. Without arguments, the example first writes float16 logits to a temporary file.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

import fastce

CHUNK_BYTES = 32 << 20


def evaluate(logits, target):
    """Return (perplexity, greedy-match rate) over all tokens."""
    rows = max(CHUNK_BYTES // (logits.shape[1] * logits.itemsize), 1)
    log_prob, matches = 0.0, 0
    with tqdm(total=len(target), unit="token", unit_scale=True) as progress:
        for start in range(0, len(target), rows):
            part = slice(start, start + rows)
            result = fastce.token_log_probs(logits[part], target[part])
            log_prob += result.log_prob.sum(dtype=np.float64)
            matches += np.count_nonzero(result.argmax == target[part])
            progress.update(len(result.argmax))
    return np.exp(-log_prob / len(target)), matches / len(target)


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
        perplexity, greedy = evaluate(logits, target)
        print(f"{len(target)} tokens, vocabulary {logits.shape[1]}, {logits.dtype}")
        print(f"perplexity {perplexity:.1f}, greedy match {greedy:.1%}")
        del logits  # unmap the file before its folder goes
