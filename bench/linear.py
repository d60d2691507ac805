"""linear_cross_entropy compared with its three matrix products, chunked NumPy and torch.

Run: python -m bench.linear [--rows 8192] [--features 1024] [--classes 32000] [--threads 1]. Time is
processor time, summed over threads, which other programs disturb less than wall-clock time. Memory
is the peak of NumPy's arrays in addition to inputs and outputs.
"""

from __future__ import annotations

import argparse
import time
import tracemalloc

from bench.threads import hold_to
from bench.timing import Budget, least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--features", type=int, default=1024)
    parser.add_argument("--classes", type=int, default=32_000)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    hold_to(arguments.threads)
    import numpy as np
    import torch

    from fastce.linear import linear_cross_entropy

    torch.set_num_threads(arguments.threads)
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((arguments.rows, arguments.features), dtype=np.float32)
    weight = rng.standard_normal((arguments.classes, arguments.features), dtype=np.float32)
    weight /= np.sqrt(arguments.features)
    target = rng.integers(0, arguments.classes, arguments.rows)

    def products():
        logits = hidden @ weight.T
        return logits @ weight, logits.T @ hidden

    def chunked_numpy(chunk=384):
        """Chunks of rows, as one writes it in NumPy."""
        loss, grad_hidden, grad_weight = 0.0, np.empty_like(hidden), np.zeros_like(weight)
        for start in range(0, len(hidden), chunk):
            x, y = hidden[start : start + chunk], target[start : start + chunk]
            logits = x @ weight.T
            logits -= logits.max(axis=1, keepdims=True)
            picked = logits[np.arange(len(x)), y]
            np.exp(logits, out=logits)
            total = logits.sum(axis=1, keepdims=True)
            loss += float(np.sum(np.log(total[:, 0]) - picked)) / len(hidden)
            logits /= total
            logits[np.arange(len(x)), y] -= 1
            logits /= len(hidden)
            grad_hidden[start : start + chunk] = logits @ weight
            grad_weight += logits.T @ x
        return loss, grad_hidden, grad_weight

    def of_torch():
        x, w = (torch.from_numpy(array).requires_grad_() for array in (hidden, weight))
        logits = torch.nn.functional.linear(x, w)
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(target))
        loss.backward()
        return loss.item(), x.grad.numpy(), w.grad.numpy()

    runs = {
        "products": products,
        "fastce": lambda: linear_cross_entropy(hidden, weight, target)[:3],
        "NumPy": chunked_numpy,
        "torch": of_torch,
    }
    outputs = hidden.nbytes + weight.nbytes
    memory, results = {}, {}
    for name, run in runs.items():
        tracemalloc.start()
        results[name] = run()
        memory[name] = (tracemalloc.get_traced_memory()[1] - outputs) / 2**20
        tracemalloc.stop()
    loss, *grads = results["fastce"]
    seconds = least(runs, Budget(0, 2), time.process_time)
    print("| | time | ratio | memory | differences |\n|---|---:|---:|---:|---:|")
    for name in runs:
        ratio = seconds[name] / min(seconds.values())
        allocated = "-" if name == "torch" else f"{memory[name]:.1f} MiB"
        differences = "-"
        if name != "products":
            errors = [abs(results[name][0] - loss) / loss] + [
                float(np.max(np.abs(a - b)) / np.max(np.abs(b)))
                for a, b in zip(results[name][1:], grads, strict=True)
            ]
            differences = ", ".join(f"{error:.0e}" for error in errors)
        print(f"| {name} | {seconds[name]:.3f} s | {ratio:.2f} | {allocated} | {differences} |")


if __name__ == "__main__":
    main()
