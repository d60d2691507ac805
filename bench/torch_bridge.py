"""Forward and backward of torch's cross-entropy, eager and compiled, and of fastce.torch.

Run: python -m bench.torch_bridge [--threads 1 2]. Each thread count has its own process. The losses
take turns, and the ratios are those of the fastest rounds.

An array of 8192 x 1000 in float32 is just small enough for malloc to keep (glibc: up to 32 MiB). If
it does, torch's step has no page faults and takes 12 to 14 ms on one thread, and that of fastce
4.6. With MALLOC_MMAP_THRESHOLD_=1048576, which maps every large array anew, they take 59 and 8.
"""

from __future__ import annotations

from collections.abc import Iterator

from bench.bridges import Case, compare_on_each

SHAPES = ((64, 10), (8192, 1000), (1024, 32000))
TYPES = ("float32", "bfloat16")
NAMES = ("torch", "fastce", "torch.compile")
HEADER = """\
| dtype | shape | torch | fastce | torch.compile | differences |
|---|---:|---:|---:|---:|---:|"""


def cases(threads: int) -> Iterator[Case]:
    import torch

    import fastce
    import fastce.torch

    torch.set_num_threads(threads)
    fastce.set_num_threads(threads)
    torch.manual_seed(0)

    def result(loss, logits, target):
        value = loss(logits, target)
        value.backward()
        grad, logits.grad = logits.grad, None
        return value.item(), grad.double()

    def forward_and_backward(loss, logits, target):
        def run():
            loss(logits, target).backward()
            logits.grad = None  # each frees its own: 7 ms for 1024 x 32000 in torch's small pages

        return run

    for name in TYPES:
        for shape in SHAPES:
            logits = (2 * torch.randn(shape)).to(getattr(torch, name)).requires_grad_()
            target = torch.randint(0, shape[1], shape[:1])
            losses = {
                "torch": torch.nn.CrossEntropyLoss(),
                "fastce": fastce.torch.CrossEntropyLoss(),
                "torch.compile": torch.compile(torch.nn.CrossEntropyLoss()),
            }
            runs, results = {}, {}
            for key, loss in losses.items():
                results[key] = result(loss, logits, target)
                runs[key] = forward_and_backward(loss, logits, target)
            value, grad = results["torch"]
            difference = abs(results["fastce"][0] - value) / value
            of_grad = float((results["fastce"][1] - grad).abs().max() / grad.abs().max())
            label = [name, f"{shape[0]} × {shape[1]}"]
            yield label, runs, f"{difference:.0e}, {of_grad:.0e}"


if __name__ == "__main__":
    compare_on_each("bench.torch_bridge", HEADER, NAMES, cases)
