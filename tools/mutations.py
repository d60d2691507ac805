"""The ways in which tools/mutate.py breaks the package, and the tests that have to notice.

Each is a different kind of fault: those that would differ only in place are listed once. `PLANTED`
has one fault for each sanitizer, which has to report it.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

SOFTMAX = ("kernels/test_softmax_losses.py", "kernels/test_edge_cases.py")
SIGMOID = ("kernels/test_sigmoid_losses.py", "kernels/test_edge_cases.py")
MODERATE = ("kernels/test_exp_in_safe_range.py",)
CHUNKS = ("kernels/test_sigmoid_chunks.py",)
INTERFACE = ("kernels/test_c_interface.py",)


class Mutation(NamedTuple):
    """One way to break the package, and the tests that have to notice."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def apply(self, tree: Path) -> str:
        """Break a copy of the sources; return what the file held before."""
        source = tree / "fastce" / self.file
        text = source.read_text("utf-8")
        source.write_text(text.replace(self.old, self.new), "utf-8")
        return text


MUTATIONS = [
    # Softmax: exponentials
    Mutation(
        "a hole of -inf not zeroed",
        "_kernels/exponentials.pxi",
        " y = zero_where(y_is_hole, y)",
        " pass",
        SOFTMAX,
    ),
    Mutation(
        "the pivot of an earlier chunk left out",
        "_kernels/long_rows.pxi",
        "                passed_over += pivot_exp[0]\n",
        "",
        SOFTMAX,
    ),
    # Softmax: pivots and sums
    Mutation(
        "the Hessian of a class that holds most of a row not mended",
        "_kernels/derivatives.pxi",
        "hess[i * s.classes + top] = hessian_of(s, i, largest * unit, others)",
        "pass",
        SOFTMAX,
    ),
    Mutation(
        "a pivot not taken out of the sum",
        "_kernels/pivots.pxi",
        "        e[pivot[i]] = 0\n",
        "",
        SOFTMAX,
    ),
    Mutation(
        "a pivot that is no target without its gradient",
        "_kernels/pivots.pxi",
        "        row = e + i * classes\n        row[s.pivot[i]] = <real> s.pivot_exp[i]\n",
        "        row = e + i * classes\n",
        SOFTMAX,
    ),
    Mutation(
        "sums of the last group of classes only",
        "_kernels/sums.pxi",
        "if first > 0:\n            sum.resume(",
        "if False:\n            sum.resume(",
        MODERATE,
    ),
    Mutation(
        "sums without the unit of their row",
        "_kernels/coefficients.pxi",
        "store(&block.sum_without_pivot[i], sum_without_pivot * unit)",
        "store(&block.sum_without_pivot[i], sum_without_pivot)",
        SOFTMAX,
    ),
    Mutation(
        "smoothing's share of the masked classes, too",
        "_kernels/coefficients.pxi",
        "label_smoothing / k if k else 0.0)",
        "label_smoothing / s.classes if k else 0.0)",
        SOFTMAX,
    ),
    Mutation(
        "extreme factors not looked for",
        "_kernels/coefficients.pxi",
        "return any(extreme)",
        "return False",
        MODERATE,
    ),
    # Softmax: losses and derivatives
    Mutation(
        "wrong sign in the focal gradient",
        "_kernels/formulas.pxi",
        "(one + g * ratio)",
        "(one - g * ratio)",
        SOFTMAX,
    ),
    Mutation(
        "the sum of losses without the products",
        "_kernels/formulas.pxi",
        "fma(above, pivot + sum_without_pivot, sum_without_pivot * below)",
        "fma(above, pivot, sum_without_pivot * below)",
        MODERATE,
    ),
    Mutation(
        "smoothing spread over masked classes of other shards",
        "_kernels/shards.pxi",
        "return <double> batch.classes / shard.kept[row] if shard.kept else 1.0",
        "return 1.0",
        ("bridges/test_sharded.py",),
    ),
    Mutation(
        "a label compared with the class before",
        "_kernels/run_passes.pxi",
        "select(equal(load(label + i), this_class), load(at_label + i), y)",
        "select(equal(load(label + i) + splat(<real> 1), this_class), load(at_label + i), y)",
        MODERATE,
    ),
    Mutation(
        "masked classes not cleared",
        "_kernels/derivatives.pxi",
        "kept = load_mask(s.mask + at + j, <real> 0)",
        "pass",
        ("kernels/test_edge_cases.py",),
    ),
    Mutation(
        "the last rows of a transposition in the place of the first",
        "_kernels/packing.pxi",
        "rows_to_classes(<const real*> stage, rows - whole, s.classes, to + whole, s.class_apart)",
        "rows_to_classes(<const real*> stage, rows - whole, s.classes, to, s.class_apart)",
        SOFTMAX,
    ),
    # Softmax: labels, weights and calls
    Mutation(
        "ignored labels in the denominator",
        "_kernels/labels.pxi",
        "unweighted_rows += labels[i] >> 63",
        "pass",
        SOFTMAX,
    ),
    Mutation(
        "negative weights taken for none",
        "_kernels/labels.pxi",
        "counts = counts | less(zero, abs(w))",
        "counts = counts | less(zero, w)",
        ("call/test_weights.py",),
    ),
    Mutation(
        "labels not checked again when they are used",
        "_kernels/rows.pxi",
        "if read_label(&batch.labels, first + i, batch.classes, &label) != OK:",
        "if read_label(&batch.labels, first + i, batch.classes, &label) == NO_MEMORY:",
        ("call/test_races.py",),
    ),
    Mutation(
        "an output over another argument",
        "_kernels/softmax_arrays.pxi",
        "        if not reach_apart(array, <cnp.ndarray> arrays[i]):\n",
        "        if False:\n",
        ("call/test_outputs.py",),
    ),
    Mutation(
        "C interface: labels not checked first",
        "_kernels/c_interface.pxi",
        "    status = weigh_labels(batch, rows, &weights, &position)\n",
        "    weigh_labels(batch, rows, &weights, &position)\n    status = OK\n",
        INTERFACE,
    ),
    # Sigmoid
    Mutation(
        "BCE of 0 times infinity",
        "_kernels/sigmoid_formulas.pxi",
        "zero_unless(less(splat(<real> 0), wrong), distance)",
        "distance",
        SIGMOID,
    ),
    Mutation(
        "an extreme logit in an ordinary chunk",
        "_kernels/sigmoid.pxi",
        "chunk.not_ordinary = (logits.exceeds(smallest_normal_exp(tag)",
        "chunk.not_ordinary = (False and logits.exceeds(smallest_normal_exp(tag)",
        CHUNKS,
    ),
    Mutation(
        "targets outside of 0 to 1 passed over",
        "_kernels/sigmoid.pxi",
        "chunk.maybe_bad_target |= targets.exceeds(<real> 1)",
        "chunk.maybe_bad_target |= False",
        ("call/test_targets.py",),
    ),
    # What Python does around the kernels
    Mutation(
        "gathered blocks off by one",
        "_kernels/softmax_run.pxi",
        "move_numbers(numbers, numbers.axes, first, count, <char*> block, True)",
        "move_numbers(numbers, numbers.axes, first, count - 1, <char*> block, True)",
        ("call/test_layouts.py",),
    ),
    Mutation(
        "results of threads in each other's place",
        "_call/threads.py",
        "results[i] = work(start, stop)",
        "results[0] = work(start, stop)",
        ("call/test_threads.py", "call/test_races.py"),
    ),
]

PLANTED = {
    "address": Mutation(
        "a whole vector written where an array of losses ends",
        "_kernels/rows.pxi",
        "        store_first(to + i, min_size(rows - i, lanes(<real> 0)), narrow_lanes(wide))\n",
        "        store(to + i, narrow_lanes(wide))\n",
        ("kernels/test_plans.py", "-k", "interleaved_rows and baseline"),
    ),
    "thread": Mutation(
        "a number of the module written in every task",
        "_kernels/rows.pxi",
        "    memset(block, 0, sizeof(block[0]))\n",
        "    global LARGEST_FLOAT\n    LARGEST_FLOAT = 3.4e38\n"
        "    memset(block, 0, sizeof(block[0]))\n",
        ("call/test_threads.py", "-k", "same_bits_for_any_shape and baseline"),
    ),
    "integer": Mutation(
        "a count of rows near the end of its range",
        "_kernels/labels.pxi",
        "            unweighted_rows += count\n",
        "            unweighted_rows += count + (1LL << 62)\n",
        ("kernels/test_plans.py", "-k", "both_sides_of_the_thresholds_of_rows and baseline"),
    ),
    "memory": Mutation(
        "the last exponential of a short vector never written",
        "_kernels/exponentials.pxi",
        "            store_first(e + i, count - i, x)\n        i += width\n",
        "            store_first(e + i, count - i - 1, x)\n        i += width\n",
        ("kernels/test_plans.py", "-k", "interleaved_rows and baseline"),
    ),
}
