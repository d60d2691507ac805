"""evaluate compared with token_log_probs, and with NumPy and torch code for the same figures.

Run: python -m bench.evaluation [--threads 1] [--dtype float32]. The figures are loss, accuracy,
rank of the target, entropy, Brier score and calibration error. Errors are the relative errors of
mean loss, entropy and Brier score, compared with long double.
"""

from __future__ import annotations

import argparse
import time
from functools import partial

from bench.threads import hold_to
from bench.timing import Budget, least

SIZES = ((65_536, 10), (16_384, 100), (4096, 1000), (256, 32_000), (64, 128_000))
BINS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    arguments = parser.parse_args()
    hold_to(arguments.threads)
    import numpy as np
    import torch

    import fastce
    from fastce.evaluation import evaluate

    torch.set_num_threads(arguments.threads)
    rng = np.random.default_rng(0)

    def calibration(confidence, right):
        which = np.minimum((confidence * BINS).astype(int), BINS - 1)
        confidence = confidence.astype(float)
        gap = np.bincount(which, right, BINS) - np.bincount(which, confidence, BINS)
        return np.abs(gap).sum() / len(right)

    def of_fastce(logits, target):
        result = evaluate(logits, target, bins=BINS)
        return result.loss, result.entropy, result.brier

    def of_numpy(logits, target):
        picked = np.arange(len(target)), target
        shifted = logits - logits.max(axis=1, keepdims=True)
        p = np.exp(shifted)
        total = p.sum(axis=1, keepdims=True)
        log_p = shifted - np.log(total)
        p /= total
        (logits > logits[picked][:, None]).sum(axis=1)
        top = p.argmax(axis=1)
        calibration(p[picked[0], top], top == target)
        brier = (p * p).sum(axis=1) - 2 * p[picked] + 1
        return -log_p[picked].mean(), -(p * log_p).sum(axis=1).mean(), brier.mean()

    def of_torch(z, y):
        log_p = torch.log_softmax(z, dim=1)
        p = log_p.exp()
        picked = log_p.gather(1, y[:, None])[:, 0]
        (z > z.gather(1, y[:, None])).sum(dim=1)
        confidence, top = p.max(dim=1)
        calibration(confidence.numpy(), (top == y).numpy())
        brier = (p * p).sum(dim=1) - 2 * picked.exp() + 1
        entropy = -(p * log_p).sum(dim=1)
        return -picked.mean().item(), entropy.mean().item(), brier.mean().item()

    print("Nanoseconds per element; in brackets, the largest of three errors\n")
    print("| shape | fastce | token_log_probs | NumPy | torch |\n|---:|---:|---:|---:|---:|")
    for rows, classes in SIZES:
        logits = rng.normal(scale=3, size=(rows, classes)).astype(arguments.dtype)
        target = rng.integers(0, classes, rows)
        runs = {
            "fastce": partial(of_fastce, logits, target),
            "token_log_probs": partial(fastce.token_log_probs, logits, target),
            "NumPy": partial(of_numpy, logits, target),
            "torch": partial(of_torch, torch.from_numpy(logits), torch.from_numpy(target)),
        }
        truth = of_numpy(logits.astype(np.longdouble), target)
        seconds = least(runs, Budget(0, 7), time.process_time)
        parts = []
        for name, run in runs.items():
            error = ""
            if name != "token_log_probs":
                pairs = zip(run(), truth, strict=True)
                error = f" ({max(abs(float(a / b - 1)) for a, b in pairs):.0e})"
            parts.append(f"{1e9 * seconds[name] / logits.size:.3f}{error}")
        print(f"| {rows} × {classes} | {' | '.join(parts)} |", flush=True)


if __name__ == "__main__":
    main()
