"""Value and gradient of JAX's cross-entropy, of fastce.jax, and of fastce in a callback.

Run: python -m bench.jax_bridge [--threads 1 2]. Each thread count has its own process. The losses
take turns, and the ratios are those of the fastest rounds. The callback, jax.pure_callback, is the
other way from JAX to the kernels. On one CPU it can hang on large arrays, and is left out for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from bench.bridges import Case, compare_on_each

SHAPES = ((64, 10), (1000, 500), (8192, 1000), (1024, 32000))
LARGE = 1 << 22  # elements; with 1024 x 32000 the callback hung
NAMES = ("fastce", "JAX", "callback")
HEADER = """\
| shape | fastce | JAX | callback | difference |
|---:|---:|---:|---:|---:|"""


def cases(threads: int) -> Iterator[Case]:
    import jax
    import jax.numpy as jnp
    import numpy as np

    import fastce
    import fastce.jax

    fastce.set_num_threads(threads)
    rng = np.random.default_rng(0)
    ce = fastce.SoftmaxCrossEntropy()

    def of_jax(logits, target):
        log_p = jax.nn.log_softmax(logits)
        return -jnp.mean(jnp.take_along_axis(log_p, target[:, None], 1))

    def host(logits, target):
        loss, grad = ce.value_and_grad(np.asarray(logits), np.asarray(target))
        return np.float32(loss), grad

    def by_callback(logits, target):
        results = (
            jax.ShapeDtypeStruct((), np.float32),
            jax.ShapeDtypeStruct(logits.shape, np.float32),
        )
        return jax.pure_callback(host, results, logits, target)

    def run(function, logits, target):
        return jax.block_until_ready(function(logits, target))

    for shape in SHAPES:
        logits = jnp.asarray(2 * rng.standard_normal(shape, dtype=np.float32))
        target = jnp.asarray(rng.integers(0, shape[1], shape[0]))
        functions = {
            "fastce": jax.jit(jax.value_and_grad(fastce.jax.function(ce))),
            "JAX": jax.jit(jax.value_and_grad(of_jax)),
            "callback": jax.jit(by_callback),
        }
        if threads == 1 and logits.size > LARGE:
            del functions["callback"]
        runs = {name: partial(run, f, logits, target) for name, f in functions.items()}
        losses = {name: run()[0] for name, run in runs.items()}
        difference = max(abs(float(loss / losses["fastce"]) - 1) for loss in losses.values())
        yield [f"{shape[0]} × {shape[1]}"], runs, f"{difference:.0e}"


if __name__ == "__main__":
    compare_on_each("bench.jax_bridge", HEADER, NAMES, cases)
