"""``python -m bench.accuracy_rows``: errors of the divergence and of evaluations, against mpmath.

Writes ``results/accuracy_rows.md``. The divergence is that of a student from its teacher, which
differ by noise with mean zero; the statistics are those of a row that `fastce.evaluation` adds up.
The truth is computed with 40 digits from the numbers that fastce is given.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import mpmath
import numpy as np

import fastce
from bench import RESULTS, machine
from bench.accuracy import Array, Yardstick
from bench.accuracy_table import by, pick, variant_names, worst
from bench.report import table
from fastce._call import variants

DTYPES = ("float32", "float64")
CLASSES = (10, 100, 1000, 32_000)
NOISE = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
TEMPERATURES = (1.0, 2.0, 3.0)
DIGITS = 40
TARGET_ULP = 8.0
KINDS = ("normal", "confident", "wide")
STATISTICS = ("loss", "top_prob", "entropy", "other_squares", "variance")

HOW_TO_READ = f"""\
The divergence: the largest errors over rows and numbers of classes, "loss / gradient", in ULP of
the logits' type, by noise. Classes: {", ".join(f"{k:,}" for k in CLASSES)} (the last at T = 1, with
the largest and the least noise). The teacher's logits have a standard deviation of 3, and the
student's are these plus the noise. The aim is {TARGET_ULP:g} ULP.

An element of the gradient is T·p_j·l_j to first order, with l_j = log q_j − log p_j. It is a
difference of logits minus the logarithm of a sum over all classes. If the two nearly cancel, the
element has the absolute error of its neighbours: so errors are in ULP of the element plus T·p_j
times the root mean square of l under p.

The statistics of a row: its loss, the largest probability, the entropy, Σ p² of all other classes,
and the variance of the logits, in ULP of the logits' type; that of the variance V in ULP of V + H²,
with H the entropy. Logits: *normal*, standard deviation 3; *confident*, one class leads by 25;
*wide*, standard deviation 30, so that z_j − max z is rounded."""


# Divergence ---------------------------------------------------------------------------------------


def rows_of(noise: float, classes: int, dtype: str) -> tuple[Array, Array]:
    """Return a student and a teacher."""
    rng = np.random.default_rng(classes)
    teacher = rng.normal(scale=3, size=(1 if classes > 1000 else 3, classes)).astype(dtype)
    student = teacher.astype(np.float64) + noise * rng.normal(size=teacher.shape)
    return student.astype(dtype), teacher


with_digits = mpmath.workdps(DIGITS)


def softmax(z: Array, temperature: float) -> tuple[list[Any], Any]:
    """Return the probabilities of a row, and its log-sum-exp."""
    u = [mpmath.mpf(x) / temperature for x in z.tolist()]
    top = max(u)
    e = [mpmath.exp(x - top) for x in u]
    total = mpmath.fsum(e)
    return [x / total for x in e], top + mpmath.log(total)


@with_digits
def true_divergence(student: Array, teacher: Array, temperature: float) -> tuple[Array, Array]:
    """Return loss and gradient of one row in extended precision, and p times the typical l."""
    t = mpmath.mpf(temperature)
    (q, student_lse), (p, teacher_lse) = softmax(student, t), softmax(teacher, t)
    pairs = zip(student.tolist(), teacher.tolist(), strict=True)
    ratio = [(mpmath.mpf(z) - y) / t - (student_lse - teacher_lse) for z, y in pairs]
    loss = -(t**2) * mpmath.fsum(a * x for a, x in zip(p, ratio, strict=True))
    grad = [t * (b - a) for a, b in zip(p, q, strict=True)]
    typical = t * mpmath.sqrt(mpmath.fsum(a * x * x for a, x in zip(p, ratio, strict=True)))
    return np.array([long(loss), *map(long, grad)]), np.array([long(a * typical) for a in p])


def long(x: Any) -> Any:
    return np.longdouble(mpmath.nstr(x, 25))


def divergences(names: list[str], quick: bool) -> Iterator[dict[str, Any]]:
    for dtype in DTYPES:
        for classes in CLASSES[:2] if quick else CLASSES:
            is_large = classes > 1000
            for noise in NOISE[:: len(NOISE) - 1] if is_large or quick else NOISE:
                student, teacher = rows_of(noise, classes, dtype)
                for temperature in TEMPERATURES[:1] if is_large else TEMPERATURES:
                    truth = [
                        true_divergence(*pair, temperature)
                        for pair in zip(student, teacher, strict=True)
                    ]
                    facts = {"dtype": dtype, "classes": classes, "noise": noise, "T": temperature}
                    for name in names:
                        errors = of_divergence(name, student, teacher, temperature, truth)
                        yield {**facts, "variant": name, **errors}


def of_divergence(
    name: str, student: Array, teacher: Array, temperature: float, truth: list[tuple[Array, Array]]
) -> dict[str, float]:
    kl = fastce.SoftmaxKLDivergence(temperature=temperature, reduction="none")
    with variants.using(name):
        loss, grad = kl.value_and_grad(student, teacher)
    true_loss = np.array([values[0] for values, _ in truth])
    true_grad = np.array([values[1:] for values, _ in truth])
    typical = np.array([numbers for _, numbers in truth])
    dtype = student.dtype
    of_loss = Yardstick(true_loss, np.abs(true_loss), dtype).errors(loss)
    of_grad = Yardstick(true_grad, np.abs(true_grad) + typical, dtype).errors(grad)
    return {"loss": of_loss[0], "grad": of_grad[0]}


# Statistics ---------------------------------------------------------------------------------------


def logits_of(kind: str, classes: int, dtype: str) -> Array:
    rng = np.random.default_rng(classes)
    z = rng.normal(scale=30 if kind == "wide" else 3, size=(1 if classes > 1000 else 3, classes))
    if kind == "confident":
        z[:, 0] = z.max(axis=1) + 25
    return z.astype(dtype)


@with_digits
def true_statistics(z: Array, label: int) -> list[Any]:
    p, lse = softmax(z, 1)
    u = [mpmath.mpf(x) for x in z.tolist()]
    top = max(range(len(u)), key=lambda j: (u[j], -j))
    mean = mpmath.fsum(a * (u[top] - x) for a, x in zip(p, u, strict=True))
    squares = mpmath.fsum(a * a for j, a in enumerate(p) if j != top)
    variance = mpmath.fsum(a * (u[top] - x - mean) ** 2 for a, x in zip(p, u, strict=True))
    return [lse - u[label], p[top], lse - u[top] + mean, squares, variance]


def statistics(names: list[str], quick: bool) -> Iterator[dict[str, Any]]:
    kernel_options = {"ignore_index": -100}
    for dtype in DTYPES:
        for classes in CLASSES[:2] if quick else CLASSES:
            for kind in KINDS:
                z = logits_of(kind, classes, dtype)
                y = np.zeros(len(z), int)
                truth = np.array([[long(x) for x in true_statistics(row, 0)] for row in z]).T
                for name in names:
                    with variants.using(name):
                        kernel = variants.core.SoftmaxKernel("cross_entropy", **kernel_options)
                        loss, _, _, numbers = kernel.read_tokens(z, y, statistics=True)
                    found = [loss, numbers[0], numbers[1], numbers[2], numbers[4]]
                    errors = {}
                    for key, x, expected in zip(STATISTICS, found, truth, strict=True):
                        size = np.abs(expected)
                        if key == "variance":
                            size = size + truth[2] ** 2
                        errors[key] = Yardstick(expected, size, z.dtype).errors(x)[0]
                    facts = {"dtype": dtype, "kind": kind, "classes": classes, "variant": name}
                    yield {**facts, **errors}


# The report ---------------------------------------------------------------------------------------


def report(pairs: list[dict[str, Any]], rows: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    where = f"{facts['processor']}, {facts['architecture']}, {facts['system']}. {facts['date']}."
    by_noise, by_kind = by(pairs, "dtype", "variant", "T"), by(rows, "dtype", "variant", "kind")
    parts = [
        "# Accuracy of the divergence, and of the statistics of rows",
        f"{where} Written by `python -m bench.accuracy_rows`.",
        HOW_TO_READ,
        "## Divergence",
        table(
            ["dtype", "variant", "T", *(f"{noise:g}" for noise in NOISE)],
            [
                [dtype, name, f"{temperature:g}", *of_noise(some)]
                for (dtype, name, temperature), some in by_noise.items()
            ],
            3,
        ),
        "## Statistics",
        table(
            ["dtype", "variant", "logits", *STATISTICS],
            [
                [*which, *(f"{worst(some, key):.1f}" for key in STATISTICS)]
                for which, some in by_kind.items()
            ],
            3,
        ),
    ]
    return "\n\n".join(parts) + "\n"


def of_noise(pairs: list[dict[str, Any]]) -> list[str]:
    cells = [pick(pairs, noise=noise) for noise in NOISE]
    return [f"{worst(x, 'loss'):.1f} / {worst(x, 'grad'):.1f}" if x else "-" for x in cells]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy_rows", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few classes, nothing written")
    quick, names, facts = parser.parse_args().quick, variant_names(), machine.facts([1])
    text = report(list(divergences(names, quick)), list(statistics(names, quick)), facts)
    print(text)
    if not quick:
        (RESULTS / "accuracy_rows.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
