"""The ways in which tools/mutate.py breaks the package, and the tests that have to notice."""

from __future__ import annotations

import mutations_of_planes
import mutations_of_softmax
from mutation import ERRORS, SIGMOID, SOFTMAX, Mutation

CHUNKS = ("test_sigmoid_chunks.py",)
INTERFACE = ("test_c_interface.py",)

MUTATIONS = [
    *mutations_of_softmax.MUTATIONS,
    *mutations_of_planes.MUTATIONS,
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
        "hess[0] = total * ((splat(<real> 1) - smaller) * smaller)",
        "hess[0] = total * (smaller * smaller)",
        SIGMOID,
    ),
    Mutation(
        "BCE of 0 times infinity",
        "_sigmoid_kernel.pxi",
        "keep(less(splat(<real> 0), wrong), distance)",
        "distance",
        SIGMOID,
    ),
    Mutation(
        "a product of more logarithms than double holds",
        "_sigmoid_kernel.pxi",
        "i + 512 * width",
        "i + 1024 * width",
        CHUNKS,
        "_core_scalar",
    ),
    Mutation(
        "a pair of a stride's logarithms left out",
        "_sigmoid_kernel.pxi",
        "wide = widen_lanes(both(x[0], x[1]))",
        "wide = widen_lanes(x[0])",
        CHUNKS,
    ),
    Mutation(
        "the logarithm of BCE added apart, and nowhere else",
        "_sigmoid_kernel.pxi",
        "sum if real is float else sum + log_term",
        "sum",
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
        "chunk.suspect |= targets.exceeds(<real> 1)",
        "chunk.suspect |= False",
        ERRORS,
    ),
    Mutation(
        "an extreme logit in an ordinary chunk",
        "_sigmoid_kernel.pxi",
        "chunk.extraordinary = (logits.exceeds(smallest_normal_exp(tag))",
        "chunk.extraordinary = (False",
        CHUNKS,
    ),
    Mutation(
        "a soft target in an ordinary chunk of focal loss",
        "_sigmoid_kernel.pxi",
        "(sigmoid_loss is SigmoidFocal and between.is_nearer(<real> 1)))",
        "False)",
        CHUNKS,
    ),
    Mutation(
        "sigmoid: the end of a short chunk left out",
        "_sigmoid_kernel.pxi",
        "whole = count - count % (STRIDE_VECTORS * lanes(tag))",
        "whole = count",
        SIGMOID,
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
        "exponentials that round to 1 counted twice",
        "_passes.pxi",
        "ties.add(keep(tied, odd))",
        "ties.add(odd)",
        ("test_softmax_family.py",),
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
        "_short_way.pxi",
        "(weight[i] >= <real> 3e-8)",
        "(weight[i] >= <real> -3e8)",
        ("test_identities.py",),
    ),
    Mutation(
        "an output over the weights accepted on the short way",
        "_short_way.pxi",
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
