"""``python -m bench.accuracy_table``: errors of every loss, dtype, instruction set and peer.

Writes ``results/accuracy.md``. Errors are the worst over 2 to 131,072 classes and over thousands of
rows of each kind of logits in ``accuracy_problems.py``, against the reference in extended
precision.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from bench import RESULTS, accuracy, machine, subjects
from bench.accuracy import (
    Yardstick,
    extended_precision,
    rounded_differences,
    true_answer,
    ulp_of,
)
from bench.accuracy_problems import Group, make, part
from bench.cells import CROSS_ENTROPY, Cell
from bench.problems import Problem, floating_dtype, working_dtype
from bench.report import table
from bench.subjects import OURS
from fastce._call import variants

CLASSES = (2, 10, 100, 1000, 131_072)
CLASSES_16_BIT = (10, 1000)  # computed in float32
ELEMENTS = 2**15  # of each kind
TARGET_ULP = 4.0
ROUNDED_ONCE = 0.6  # ULP of a 16-bit gradient: half, and float32's own error
DTYPES = ("float32", "float64", "float16", "bfloat16")

LOSSES = {
    "softmax cross-entropy": Cell(CROSS_ENTROPY, (1, 2)),
    "softmax cross-entropy, label_smoothing=0.1": Cell(CROSS_ENTROPY, (1, 2), label_smoothing=0.1),
    "softmax cross-entropy, probabilities": Cell(CROSS_ENTROPY, (1, 2), target="probabilities"),
    "softmax focal loss, gamma=2": Cell("softmax_focal_loss", (1, 2)),
    "softmax focal loss, gamma=1.5": Cell("softmax_focal_loss", (1, 2), gamma=1.5),
    "BCE with logits": Cell("bce_with_logits", (2,), target="binary"),
    "sigmoid focal loss, gamma=2": Cell("sigmoid_focal_loss", (2,), target="binary", alpha=0.25),
    "sigmoid focal loss, gamma=1.5": Cell(
        "sigmoid_focal_loss", (2,), target="binary", alpha=0.25, gamma=1.5
    ),
}

SAME_BITS = {"wide": "avx512", "scalar": "baseline"}  # for tests: left out if the other exists
FASTCE = "fastce "  # followed by the variant: a subject's name
PEERS = ("NumPy", "SciPy", "scikit-learn", "torch", "JAX")

Found = dict[str, Any]


def problems(
    loss: str, dtype: str, elements: int = ELEMENTS
) -> Iterator[tuple[Problem, list[Group]]]:
    """The problems of one loss, one for each number of classes."""
    cell = replace(LOSSES[loss], dtype=dtype)
    if cell.target == "binary":
        yield make(cell, 4 * elements)
        return
    for classes in CLASSES if floating_dtype(dtype).itemsize > 2 else CLASSES_16_BIT:
        yield make(replace(cell, shape=(1, classes)), elements)


def yardsticks(problem: Problem, exact: bool) -> dict[str, Yardstick]:
    """What value and gradient are measured against: ``TARGET_ULP``, and rounded differences."""
    dtype, working = floating_dtype(problem.cell.dtype), working_dtype(problem.cell.dtype)
    truth = true_answer(problem)
    assert truth.gradient_magnitude is not None
    value, gradient = TARGET_ULP, TARGET_ULP if dtype.itemsize > 2 else ROUNDED_ONCE
    if not exact:
        half_eps = float(np.finfo(working).eps) / 2
        of_value, of_gradient = rounded_differences(problem)
        value = value + half_eps * of_value / ulp_of(truth.value, working)
        gradient = gradient + half_eps * of_gradient / ulp_of(truth.gradient_magnitude, dtype)
    return accuracy.yardsticks(problem, truth, value, gradient)


def variant_names() -> list[str]:
    """The variants of the kernels that are measured here."""
    available = variants.available()
    return [name for name in available if SAME_BITS.get(name) not in available]


def answers(problem: Problem, names: list[str], peers: bool) -> Iterator[tuple[str, Any]]:
    """Name and (value, gradient) of each variant of fastce, then of each peer that can do it."""
    for subject in subjects.subjects_of(problem.cell):
        if subject.name == OURS[0]:
            for variant in names:
                with variants.using(variant):
                    result = subject.prepare(problem)()
                    yield FASTCE + variant, tuple(map(np.array, result))
        elif peers and subject.name in PEERS:
            yield subject.name, subject.prepare(problem)()


def measure(loss: str, dtype: str, names: list[str]) -> list[Found]:
    """One entry per number of classes, kind of logits and subject."""
    found = []
    for problem, groups in problems(loss, dtype):
        results = dict(answers(problem, names, dtype in ("float32", "float64")))
        for group in groups:
            piece = part(problem, group.rows)
            facts = {
                "loss": loss,
                "dtype": dtype,
                "classes": None if piece.cell.target == "binary" else piece.cell.classes,
                "kind": group.kind,
                "exact": group.exact,
            }
            measures = yardsticks(piece, group.exact)
            for name, result in results.items():
                entry: Found = facts | {"subject": name}
                for array, (key, yardstick) in zip(result, measures.items(), strict=True):
                    ulp, relative, share = yardstick.errors(array[group.rows])
                    entry |= {key: ulp, f"{key}_relative": relative, f"{key}_share": share}
                found.append(entry)
    return found


# The report -------------------------------------------------------------------------------------

HOW_TO_READ = f"""\
Worst errors of a single sample's loss and of a gradient's element, "loss / gradient", in ULP of the
truth in the logits' dtype (the losses of 16-bit logits: of float32), wherever the truth is a normal
number. ∞: NaN, infinite, or the relative error is 1 or more: no digit is right. Where the gradient
is a difference of two terms (label smoothing, probabilities), its error is in ULP of the larger.

Classes: {", ".join(f"{k:,}" for k in CLASSES)}. Logits: *normal*, standard deviation 3;
*confident*, the right class leads by 10 to 60; *zipf*, log-frequencies of a vocabulary; *cauchy*,
heavy tails up to 2¹⁷; *adversarial*, ties, subnormal tails, tails lost one by one, masks, large
offsets. *Exact*: rounded to multiples of 1/32, so that z_j − max z is exact. *As drawn*: it is
rounded, which alone makes a relative error of |z_j − max z|·eps/2 in e^(z_j − max z).

The bound is {TARGET_ULP:g} ULP, and for logits as drawn what that rounding adds to first order
(`rounded_differences` in `accuracy.py`); {ROUNDED_ONCE} ULP for 16-bit gradients.

Variant *wide*, where there is one, is avx512's logic over pairs of AVX2's vectors, on a processor
that has no AVX-512: its exp of float32 gives the same bits."""


def worst(entries: list[Found], key: str) -> float:
    return max((float(entry[key]) for entry in entries), default=0.0)


def both(entries: list[Found], what: str, form: str) -> str:
    """The worst of a kind of error, "loss / gradient"."""
    return " / ".join(f"{worst(entries, f'{key}_{what}'):{form}}" for key in ("value", "gradient"))


def pick(entries: list[Found], **fields: Any) -> list[Found]:
    return [e for e in entries if all(e[key] == value for key, value in fields.items())]


def by(entries: list[Found], *fields: str) -> dict[tuple[Any, ...], list[Found]]:
    """Entries grouped by their values of some fields, in the order in which these first occur."""
    groups: dict[tuple[Any, ...], list[Found]] = {}
    for entry in entries:
        groups.setdefault(tuple(entry[field] for field in fields), []).append(entry)
    return groups


def of_fastce(entries: list[Found]) -> list[Found]:
    return [e for e in entries if e["subject"].startswith(FASTCE)]


def in_ulp(entries: list[Found]) -> str:
    """ "loss / gradient", or "-" if there are no entries."""
    texts = []
    for key in ("value", "gradient"):
        error = worst(entries, key)
        if not worst(entries, f"{key}_relative") < 1:
            texts.append("∞")
        elif error < 1000:
            texts.append(f"{error:.1f}" if error < 100 else f"{error:.0f}")
        else:
            mantissa, exponent = f"{error:.0e}".split("e")
            texts.append(f"{mantissa}e{int(exponent)}")
    return " / ".join(texts) if entries else "-"


def summary(entries: list[Found]) -> str:
    """Loss × dtype × instruction set: ULP and relative error, and the share of the bound."""
    header = ["loss", "dtype", "variant", "exact: ULP", "relative", "as drawn: ULP", "relative"]
    rows = []
    grouped = by(of_fastce(entries), "loss", "dtype", "subject")
    for (loss, dtype, subject), found in grouped.items():
        row = [loss, dtype, subject.removeprefix(FASTCE)]
        for exact in (True, False):
            some = pick(found, exact=exact)
            row += [in_ulp(some), both(some, "relative", ".1e") if some else "-"]
        rows.append([*row, both(found, "share", ".0%")])
    return table([*header, "share of the bound"], rows, 3)


def beyond(entries: list[Found]) -> str:
    """Where fastce errs by more than its bound, worst over instruction sets and kinds of logits."""
    rows = []
    grouped = by(of_fastce(entries), "loss", "dtype", "exact", "classes")
    for (loss, dtype, exact, classes), found in grouped.items():
        over = [e for e in found if max(e["value_share"], e["gradient_share"]) > 1]
        if over:
            kinds = ", ".join(dict.fromkeys(e["kind"] for e in over))
            form = "exact" if exact else "as drawn"
            where = [loss, dtype, "-" if classes is None else f"{classes:,}", kinds, form]
            rows.append([*where, in_ulp(over), both(over, "share", ".0%")])
    header = ["loss", "dtype", "classes", "logits", "differences", "ULP", "share of the bound"]
    return table(header, rows, 5) if rows else "Nowhere."


def beside_peers(entries: list[Found]) -> str:
    """Kinds of logits down, subjects across, worst over all numbers of classes."""
    names = [name for (name,) in by(entries, "subject")]
    rows = [
        [
            kind + ", exact" * exact,
            *(in_ulp(pick(some, subject=name)) for name in names),
        ]
        for (exact, kind), some in by(entries, "exact", "kind").items()
    ]
    return table(["logits", *names], rows, 1)


def by_classes(entries: list[Found]) -> str:
    """Losses down, numbers of classes across, worst over exact logits and instruction sets."""
    rows = [
        [loss, *(in_ulp(pick(found, classes=classes)) for classes in CLASSES)]
        for (loss,), found in by(pick(of_fastce(entries), exact=True), "loss").items()
    ]
    return table(["loss", *(f"{classes:,}" for classes in CLASSES)], rows, 1)


def report(entries: list[Found], facts: dict[str, Any], missing: Iterable[str]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    parts = [
        "# Accuracy of every loss, dtype and instruction set",
        f"{facts['processor']}, {facts['architecture']}, {facts['system']}. Python "
        f"{facts['python']}, {versions}. {facts['date']}. Written by "
        "`python -m bench.accuracy_table`.",
        HOW_TO_READ,
        "## fastce",
        summary(entries),
        "## Beyond the bound",
        beyond(entries),
    ]
    for (dtype,), of_dtype in by(entries, "dtype").items():
        if floating_dtype(dtype).itemsize == 2:
            continue  # peers' 16-bit losses are 16-bit numbers: nothing to compare
        parts += [f"## By the number of classes, {dtype}, exact differences"]
        parts += [by_classes(of_dtype)]
        for (loss,), found in by(of_dtype, "loss").items():
            parts += [f"## {loss}, {dtype}", beside_peers(found)]
    if missing:
        parts += ["Not installed: " + ", ".join(sorted(missing)) + "."]
    return "\n\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy_table")
    parser.add_argument("--dtypes", default=",".join(DTYPES), metavar="NAME,NAME")
    arguments = parser.parse_args()
    if not extended_precision():
        raise SystemExit("np.longdouble is no wider than float64 here: there is no truth")
    missing, names = subjects.load(), variant_names()
    facts, started, errors = machine.facts([1]), time.monotonic(), []
    for dtype in arguments.dtypes.split(","):
        for loss in LOSSES:
            errors += measure(loss, dtype, names)
            print(f"[{time.monotonic() - started:4.0f} s] {dtype} {loss}", file=sys.stderr)
    text = report(errors, facts, missing)
    print(text)
    if arguments.dtypes == ",".join(DTYPES):
        (RESULTS / "accuracy.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
