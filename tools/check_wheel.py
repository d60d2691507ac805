"""Fail unless the installed package has every module for this machine, and each works.

A wheel that was built without vectors gives the right results, too, so tests would not detect it.
"""

import platform
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import fastce
from fastce import reference
from fastce._call import variants


def main() -> None:
    installed = Path(fastce.__file__).resolve()
    source = Path(__file__).resolve().parents[1]
    if source in installed.parents:
        raise SystemExit(f"this is not the wheel, but the source: {installed}")
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    modules = ["_core", "_core_avx2", "_core_avx512"] if x86 else ["_core"]
    missing = [name for name in modules if find_spec(f"fastce.{name}") is None]
    if missing:
        raise SystemExit(f"the wheel lacks {', '.join(missing)}")
    if variants.core.LANES == 1:
        raise SystemExit(f"{variants.selected} takes one element at a time: built without vectors")
    logits = np.random.default_rng(1).normal(size=(50, 30)).astype(np.float32)
    target = np.arange(50) % 30
    expected = reference.softmax_cross_entropy(logits, target)
    for name in variants.available():
        with variants.using(name):
            results = fastce.SoftmaxCrossEntropy().value_grad_hess(logits, target)
        for ours, correct in zip(results, expected, strict=True):
            np.testing.assert_allclose(ours, correct, rtol=1e-5, atol=1e-9, err_msg=name)
    fastce.show_config()


if __name__ == "__main__":
    main()
