"""The ways in which tools/mutate.py breaks the package, and the tests that have to notice."""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


SOFTMAX = ("test_softmax_family.py", "test_edge_cases.py")
SIGMOID = ("test_sigmoid_family.py", "test_edge_cases.py")
ERRORS = ("test_errors.py", "test_hostile.py", "test_hostile_arguments.py")
INTERFACE = ("test_c_interface.py",)

MUTATIONS = [
    # Formulas of the softmax family
    Mutation(
        "wrong sign of the gradient at the target",
        "_formulas.pxi",
        "- (hard + soft_at_target) * target_others))",
        "+ (hard + soft_at_target) * target_others))",
        SOFTMAX,
    ),
    Mutation(
        "z-loss left out of the gradient",
        "_formulas.pxi",
        "pull = pull + two_z * lse",
        "pull = pull",
        SOFTMAX,
    ),
    Mutation(
        "Hessian short of a denominator",
        "_formulas.pxi",
        "product = pull * scale * inverse",
        "product = pull * scale",
        SOFTMAX,
    ),
    Mutation(
        "0 times infinity",
        "_formulas.pxi",
        "keep(less(zero, hard), hard * nll)",
        "hard * nll",
        SOFTMAX,
    ),
    Mutation(
        "wrong sign in the focal gradient",
        "_formulas.pxi",
        "(one + g * ratio)",
        "(one - g * ratio)",
        SOFTMAX,
    ),
    Mutation(
        "p for 1 - p in the focal gradient",
        "_formulas.pxi",
        "store(&block.at_target[i], factor * a * q)",
        "store(&block.at_target[i], factor * a * p)",
        SOFTMAX,
    ),
    # Rows, labels and weights
    Mutation(
        "a label of K accepted",
        "_batch.pxi",
        "return OK if 0 <= value < classes else BAD_LABEL",
        "return OK if 0 <= value <= classes else BAD_LABEL",
        ERRORS,
    ),
    Mutation(
        "negative labels accepted",
        "_batch.pxi",
        "return OK if 0 <= value < classes else BAD_LABEL",
        "return OK if value < classes else BAD_LABEL",
        ERRORS,
    ),
    Mutation(
        "ignore_index off by one",
        "_batch.pxi",
        "value == labels.ignore_index:",
        "value == labels.ignore_index + 1:",
        ERRORS,
    ),
    Mutation(
        "unsigned labels wrap",
        "_batch.pxi",
        "if labels.unsigned and value < 0:",
        "if labels.unsigned and value < -100:",
        ERRORS,
    ),
    Mutation(
        "rows of weight 0 used",
        "_batch.pxi",
        "block.active[i] = block.weight[i] != 0.0 and (",
        "block.active[i] = (",
        SOFTMAX,
    ),
    Mutation(
        "sample weight missing from the denominator",
        "_batch.pxi",
        "total += weight * read_scalar(&batch.sample_weight, row)",
        "total += weight",
        SOFTMAX,
    ),
    Mutation(
        "class weight of the label without smoothing's share",
        "_batch.pxi",
        "batch.class_weight[label] * (1.0 - batch.label_smoothing)",
        "batch.class_weight[label]",
        SOFTMAX,
    ),
    Mutation(
        "labels not checked again when they are used",
        "_batch.pxi",
        "if read_label(&batch.labels, first + i, batch.classes, &label) != OK:",
        "if read_label(&batch.labels, first + i, batch.classes, &label) == NO_MEMORY:",
        ("test_races.py",),
    ),
    Mutation(
        "ignore_index 0 not seen among contiguous labels",
        "_batch.pxi",
        "batch.labels.ignores and 0 <= ignored < batch.classes",
        "batch.labels.ignores and 0 < ignored < batch.classes",
        SOFTMAX,
    ),
    Mutation(
        "contiguous labels not checked again when they are used",
        "_batch.pxi",
        "wrong |= to[i] | <long long> (last - <unsigned long long> to[i])",
        "wrong |= to[i]",
        ("test_races.py",),
    ),
    Mutation(
        "an ignored row takes what an earlier one left",
        "_batch.pxi",
        "block.target_exp[i] = 0.0",
        "pass",
        ("test_edge_cases.py",),
    ),
    Mutation(
        "weight left out of the last rows of a block",
        "_batch.pxi",
        "last += block.value[i] * block.weight[i]",
        "last += block.value[i]",
        SOFTMAX,
    ),
    # Loops
    Mutation(
        "a vector read past the end of a row",
        "_passes.pxi",
        "c = max(load_first(u + i, count - i, <real> -INFINITY), c)",
        "c = max(load(u + i), c)",
        ("test_guard_pages.py", *SOFTMAX),
    ),
    Mutation(
        "one element of an ignored row not cleared",
        "_row_kernel.pxi",
        "memset(grad_row, 0, batch.classes * grad_size)",
        "memset(grad_row, 0, (batch.classes - 1) * grad_size)",
        SOFTMAX,
    ),
    Mutation(
        "lanes past the end added up",
        "_sigmoid_kernel.pxi",
        "fill(buffer, 0, count, <real> 1)\n    fill(buffer, count, count + 16, <real> 0)",
        "fill(buffer, 0, count + 16, <real> 1)",
        SIGMOID,
    ),
    Mutation(
        "the maximum lost among the other exponentials",
        "_passes.pxi",
        "total.add(drop(tied, even + odd))",
        "total.add(even + odd)",
        SOFTMAX,
    ),
    Mutation(
        "what stands beside a maximum left out",
        "_passes.pxi",
        "while strides > 0:",
        "while strides > 1:",
        SOFTMAX,
    ),
    Mutation(
        "a gradient that is lost where its factor is tiny",
        "_passes.pxi",
        "return 0.0 < fabs(factor) < smallest_lowering(tag)",
        "return False",
        SOFTMAX,
    ),
    Mutation(
        "chunks of a row not brought to one maximum",
        "_row_kernel.pxi",
        "return scalar_exp(work.references[chunk] - maximum) if batch.classes > CHUNK else 1.0",
        "return 1.0",
        SOFTMAX,
    ),
    Mutation(
        "16 bits: logit scale missing at the target",
        "_row_kernel.pxi",
        "at_target = <real> (block.at_target[i] * chain)",
        "at_target = <real> block.at_target[i]",
        SOFTMAX,
    ),
    Mutation(
        "16 bits: target of a later chunk written to the first",
        "_row_kernel.pxi",
        "narrow(&at_target, grad_row + label * grad_size,",
        "narrow(&at_target, grad_row + (label - first) * grad_size,",
        SOFTMAX,
    ),
    Mutation(
        "planes taken for rows",
        "_tile_kernel.pxi",
        "or is_plane(&batch.logits) or is_plane(&batch.grad)",
        "or is_plane(&batch.grad)",
        (*SOFTMAX, "test_layouts.py"),
    ),
    Mutation(
        "tiles: what lies behind a short row taken for its maximum",
        "_tile_moves.pxi",
        "cdef int inside = <int> min_size(step, classes)",
        "cdef int inside = step",
        SOFTMAX,
    ),
    Mutation(
        "tiles: the last classes of a row left out",
        "_tile_kernel.pxi",
        "while j < classes:\n            tile_exponential(",
        "while j < classes - 1:\n            tile_exponential(",
        SOFTMAX,
    ),
    Mutation(
        "tiles: NaN at the masked classes of a row without a softmax",
        "_tile_kernel.pxi",
        "cleared |= has_no_softmax(block, i)",
        "pass",
        ("test_edge_cases.py",),
    ),
    Mutation(
        "tiles: logit scale once in the Hessian at the target",
        "_tile_kernel.pxi",
        "hess[label * BLOCK_ROWS + i] = <real> (block.hess_at_target[i] * chain * chain)",
        "hess[label * BLOCK_ROWS + i] = <real> (block.hess_at_target[i] * chain)",
        SOFTMAX,
    ),
    Mutation(
        "log1p short of its last term",
        "simd_functions.hpp",
        "const vec<float> p = fma(p23, z * z, p01);\n    return fma(-s, x - z * p, x);",
        "return fma(-s, x - z * p01, x);",
        SIGMOID,
    ),
    # Formulas of the sigmoid family
    Mutation(
        "wrong sign in the gradient of BCE",
        "_sigmoid_kernel.pxi",
        "flip_sign(wrong - total * smaller, z)",
        "flip_sign(wrong + total * smaller, z)",
        SIGMOID,
    ),
    Mutation(
        "wrong Hessian of BCE",
        "_sigmoid_kernel.pxi",
        "hess[0] = total * (larger * smaller)",
        "hess[0] = total * (larger * larger)",
        SIGMOID,
    ),
    Mutation(
        "BCE of 0 times infinity",
        "_sigmoid_kernel.pxi",
        "keep(less(splat(<real> 0), wrong), wrong * abs(z))",
        "wrong * abs(z)",
        SIGMOID,
    ),
    Mutation(
        "smoothing without its constant",
        "_sigmoid_kernel.pxi",
        "y_i = y_i * kept + half_smoothing",
        "y_i = y_i * kept",
        SIGMOID,
    ),
    Mutation(
        "targets outside of 0 to 1 passed over",
        "_sigmoid_kernel.pxi",
        "chunk.suspect |= targets.suspects()",
        "chunk.suspect |= False",
        ERRORS,
    ),
    Mutation(
        "alpha swapped",
        "_interface.pxi",
        "1.0 if alpha < 0.0 else 1.0 - alpha",
        "1.0 if alpha < 0.0 else alpha",
        SIGMOID,
    ),
    Mutation(
        "smoothing without class weights",
        "_interface.pxi",
        "batch.class_weight[j] * share if batch.class_weight else share",
        "share",
        SOFTMAX,
    ),
    # C interface
    Mutation(
        "C interface: labels are not checked first",
        "_interface.pxi",
        "return weigh_labels(batch, rows, denominator, &position)",
        "weigh_labels(batch, rows, denominator, &position)",
        INTERFACE,
    ),
    Mutation(
        "C interface: targets are not checked",
        "_interface.pxi",
        "return BAD_TARGET",
        "pass",
        INTERFACE,
    ),
    Mutation(
        "C interface: no sum beside the losses",
        "_interface.pxi",
        "total[0] = sum if loss == NULL else sum_of(<const real*> loss, rows)",
        "total[0] = sum",
        INTERFACE,
    ),
    Mutation(
        "C interface: labels equal to an index that is not in use are ignored",
        "_interface.pxi",
        "batch.labels.ignores = ignores",
        "batch.labels.ignores = True",
        INTERFACE,
    ),
    # Checks
    Mutation(
        "no upper limit of options",
        "_checks.py",
        "low <= result <= high",
        "low <= result",
        ERRORS,
    ),
    Mutation(
        "negative weights accepted",
        "_checks.py",
        "good = np.isfinite(array) & (array >= 0)",
        "good = np.isfinite(array)",
        ERRORS,
    ),
    Mutation(
        "the target's mask is that of another row",
        "_row_kernel.pxi",
        "not row_address(&batch.mask, row)[",
        "not row_address(&batch.mask, row + i)[",
        ("test_edge_cases.py",),
    ),
    Mutation(
        "negative weights accepted on the short way",
        "_core.pyx",
        "(weight[i] >= <real> 3e-8)",
        "(weight[i] >= <real> -3e8)",
        ("test_identities.py",),
    ),
    Mutation(
        "an output over the weights accepted on the short way",
        "_core.pyx",
        "are_apart(<cnp.ndarray> out, w)",
        "True",
        ("test_identities.py",),
    ),
    Mutation(
        "read-only outputs accepted",
        "_checks.py",
        "if not array.flags.writeable:",
        "if not array.flags.aligned:",
        ERRORS,
    ),
    Mutation(
        "what a subclass says of itself believed",
        "_checks.py",
        "array: Array = np.asarray(value).view()",
        "array: Array = value",
        ERRORS,
    ),
    Mutation(
        "arguments reshaped after their check",
        "_checks.py",
        "return array.view()",
        "return array",
        ERRORS,
    ),
    Mutation(
        "overlap not seen",
        "_checks.py",
        "if a.size == 0 or b.size == 0 or not np.may_share_memory(a, b):",
        "if a.size or not np.may_share_memory(a, b):",
        ERRORS,
    ),
    Mutation(
        "an output that overlaps itself accepted",
        "_checks.py",
        "if stride < reach:",
        "if stride < 0:",
        ERRORS,
    ),
    Mutation(
        "out=logits taken for an overlap",
        "_checks.py",
        "if other is same and _is_same(array, other):",
        "if other is array and not _is_same(array, other):",
        ("test_softmax_family.py", "test_interface.py"),
    ),
    # One call
    Mutation(
        "mean without its denominator",
        "_evaluate.py",
        "    scale /= denominator\n    factors = ",
        "    factors = ",
        SOFTMAX,
    ),
    Mutation(
        "position of a bad label within its block",
        "_evaluate.py",
        "_checks.bad_label(labels, start + position, self.classes)",
        "_checks.bad_label(labels, position, self.classes)",
        ("test_layouts.py",),
    ),
    Mutation(
        "targets not checked",
        "_evaluate.py",
        'if target.dtype.kind == "b" or target.size == 0:',
        'if target.dtype.kind != "b" or target.size == 0:',
        ERRORS,
    ),
    Mutation(
        "gathered blocks off by one",
        "_layout.py",
        "whole = last + (tail == inner)",
        "whole = last",
        ("test_layouts.py",),
    ),
    Mutation(
        "results of threads in each other's place",
        "_parallel.py",
        "results[i] = work(start, stop)",
        "results[0] = work(start, stop)",
        ("test_interface.py", "test_races.py"),
    ),
]
