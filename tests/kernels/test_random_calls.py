"""Random calls of everything but the losses in Python: functions, statistics, shards, C.

The search is the same in every run; `make fuzz` goes on from there.
"""

from __future__ import annotations

import numpy as np
from batches import row_weight
from bounds import assert_equals_the_reference, tolerances, working
from c_functions import OK, call_divergence, evaluate
from cases import DISTILLATION, DTYPES, SOFTMAX, Batch, Case
from drawn import (
    CLASSES,
    SEEDS,
    TYPES,
    laid_out,
    made_logits,
    shapes,
    sigmoid_batches,
    softmax_batches,
)
from fuzzing import FUZZ
from hypothesis import assume, given
from hypothesis import strategies as st
from row_statistics import KINDS, assert_statistics_are_right, rows_of
from sharding import evaluate as evaluate_shards
from softmax_truth import truth

import fastce
from fastce._call import variants

VARIANTS = st.sampled_from(variants.available())


@FUZZ
@given(data=st.data(), name=st.sampled_from(["softmax", "log_softmax", "logsumexp"]))
def test_functions_are_their_formulas(data, name):
    shape, axis = data.draw(shapes(data.draw(CLASSES)))
    dtype = data.draw(st.sampled_from(TYPES))
    rng = np.random.default_rng(data.draw(SEEDS))
    hostile = data.draw(st.booleans())
    logits = laid_out(data.draw, made_logits(data.draw, rng, shape, dtype, hostile))
    where = rng.random(shape) < 0.7 if data.draw(st.booleans()) else None
    axes = data.draw(st.sampled_from([axis, axis, None, (axis,)]))
    out = None
    if name != "logsumexp" and data.draw(st.booleans()):
        out = laid_out(data.draw, np.zeros(shape, DTYPES[dtype]))
        out = out if out.flags.writeable and 0 not in out.strides else None
    with variants.using(data.draw(VARIANTS)), np.errstate(all="raise"):
        found = getattr(fastce, name)(logits, axis=axes, where=where, out=out)
    expected = truth(name, logits, axes, where)
    if name == "logsumexp":
        expected = np.squeeze(expected, axis=tuple(range(logits.ndim)) if axes is None else axes)
    computed_in = working(logits.dtype)
    result_dtype = computed_in if name == "logsumexp" else DTYPES[dtype]
    tolerance = 4 * np.finfo(computed_in).eps * (1 + np.abs(expected))
    assert out is None or found is out
    assert_equals_the_reference(found, expected, tolerance, result_dtype, computed_in)


@FUZZ
@given(data=st.data(), kind=st.sampled_from(KINDS), planes=st.booleans())
def test_statistics_equal_the_reference(data, kind, planes):
    classes = data.draw(CLASSES)
    rows = data.draw(st.integers(1, max(1, min(300, 12_000 // classes))))
    rng = np.random.default_rng(data.draw(SEEDS))
    z = rows_of(kind, (rows, classes), rng).astype(DTYPES[data.draw(st.sampled_from(TYPES))])
    with variants.using(data.draw(VARIANTS)):
        assert_statistics_are_right(
            np.array(z, order="F" if planes else "C"), rng.integers(classes, size=rows), kind
        )


@FUZZ
@given(data=st.data())
def test_shards_equal_the_reference(data):
    c, batch = data.draw(softmax_batches((*SOFTMAX, DISTILLATION)))
    assume(c.loss == DISTILLATION or batch.target.ndim < batch.logits.ndim)
    if c.options.get("temperature") == 7.0:  # the quotient of a larger logit has no digits below 1
        for x in (batch.logits, batch.target):
            assume(not np.any(np.isfinite(x) & (np.abs(x.astype(float)) > 1e15)))
    classes = batch.logits.shape[c.axis]
    cuts = data.draw(st.lists(st.integers(0, classes), max_size=4))
    want, bound = c.truth(batch), tolerances(c, batch)
    with variants.using(data.draw(VARIANTS)):
        value, grad = evaluate_shards(
            c.build(), batch.logits, batch.target, [0, *sorted(cuts), classes], **batch.call
        )
    computed_in = working(batch.logits.dtype)
    assert_equals_the_reference(value, want[0], bound[0], np.dtype(float), computed_in)
    dtype = grad.dtype.newbyteorder("=")
    grad = grad.astype(want[1].dtype)
    # A log-ratio is the sum of two numbers: where the gradient is 0, it may be their error.
    bound_of_grad = bound[1] + float(np.finfo(computed_in).eps) ** 2
    assert_equals_the_reference(grad, want[1], bound_of_grad, dtype, computed_in)


def in_terms_of_c(c, batch):
    """The case without what the C interface lacks."""
    lacking = {"logit_scale", "softcap", *({"alpha"} if not c.is_softmax else ())}
    options = {name: x for name, x in c.options.items() if name not in lacking}
    call = {name: x for name, x in batch.call.items() if name == "sample_weight"}
    arrays = (
        np.array(x, x.dtype.newbyteorder("="), order="C") for x in (batch.logits, batch.target)
    )
    return Case("drawn", c.loss, None, c.shape, options=options), Batch(*arrays, call)


@FUZZ
@given(data=st.data())
def test_the_c_interface_has_the_bits_of_python(data):
    dtypes = ("float32", "float64")
    drawn = data.draw(st.sampled_from([softmax_batches(SOFTMAX, dtypes), sigmoid_batches(dtypes)]))
    c, batch = in_terms_of_c(*data.draw(drawn))
    assume(not c.is_softmax or batch.target.ndim < batch.logits.ndim)
    assume(0 not in batch.logits.shape)
    with variants.using(data.draw(VARIANTS)):
        wants_loss = c.reduction == "none"
        value, grad = evaluate(c, batch, wants_loss=wants_loss)
        expected = c.build().value_and_grad(batch.logits, batch.target, **batch.call)
    # Python knows a mean of nothing; in C, NaN times a scale of 0 is NaN.
    assume(c.reduction != "mean" or not np.isnan(expected[0]) or expected[1].any())
    np.testing.assert_array_equal(grad, expected[1])
    if wants_loss:
        np.testing.assert_array_equal(value, expected[0])


@FUZZ
@given(data=st.data(), planes=st.booleans(), scale=st.sampled_from([1.0, -0.5]))
def test_the_divergence_in_c_has_the_bits_of_python(data, planes, scale):
    c, batch = data.draw(softmax_batches((DISTILLATION,), ("float32", "float64")))
    z, t = (np.moveaxis(x, c.axis, -1) for x in (batch.logits, batch.target))
    z, t = (x.reshape(-1, z.shape[-1]) for x in (z, t))
    z, t = (np.array(x, x.dtype.newbyteorder("="), order="CF"[planes]) for x in (z, t))
    temperature = min(c.options.get("temperature", 1.0), 7.0)  # 2^60 needs float64
    weight = np.array(row_weight(np.random.default_rng(0), z, t, -1), z.dtype)
    grad, loss = np.full_like(z, np.nan), np.full(len(z), np.nan, z.dtype)
    with variants.using(data.draw(VARIANTS)):
        status, _ = call_divergence(
            z, t, temperature, weight=weight, scale=scale, grad=grad, loss=loss
        )
        made = fastce.SoftmaxKLDivergence(temperature=temperature, reduction="none")
        expected = made.value_and_grad(z, t, sample_weight=weight, grad_output=scale)
    assert status == OK
    np.testing.assert_array_equal(loss, expected[0])
    np.testing.assert_array_equal(grad, expected[1])
