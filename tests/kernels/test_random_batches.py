"""Random batches of every loss: each result is that of the reference.

Shapes, strides, types, options, labels and hostile values are drawn together, as no list of cases
has them. The search is the same in every run; `make fuzz` goes on from there.
"""

from __future__ import annotations

import numpy as np
from bounds import assert_equals_the_reference, tolerances, working
from cases import DISTILLATION, SOFTMAX
from drawn import sigmoid_batches, softmax_batches
from fuzzing import FUZZ
from hypothesis import given
from hypothesis import strategies as st

from fastce._call import variants

MARK = 77


def outputs(draw, logits):
    """Two outputs for the derivatives, of any kind."""
    kind = draw(
        st.sampled_from(["fresh", "float32", "backwards", "spread", "swapped", "logits", "none"])
    )
    if kind == "none":
        return None, None
    if kind == "logits" and logits.flags.writeable and logits.dtype.isnative:
        return logits.copy(), None  # the copy is what the call is made with
    dtype = logits.dtype.newbyteorder("=")
    if kind == "float32" and dtype.itemsize == 2:
        dtype = np.dtype(np.float32)
    if kind == "swapped":
        dtype = dtype.newbyteorder("S")
    made = [np.full(logits.shape, MARK, dtype) for _ in range(2)]
    if kind == "spread" and logits.ndim:
        made = [np.repeat(out, 3, axis=-1)[..., 1::3] for out in made]
    if kind == "backwards" and logits.ndim:
        made = [out[::-1] for out in made]
    return tuple(made)


def compare(data, c, batch):
    truth, bound = c.truth(batch), tolerances(c, batch)
    made = c.build()
    grad_out, hess_out = outputs(data.draw, batch.logits)
    in_place = hess_out is None and grad_out is not None
    logits = grad_out if in_place else batch.logits
    before = [np.asarray(x).tobytes() for x in (batch.logits, batch.target, *batch.call.values())]
    forward = {name: x for name, x in batch.call.items() if name != "grad_output"}
    variant = data.draw(st.sampled_from(list(variants.available())))
    with variants.using(variant), np.errstate(all="raise"):
        values = [made(batch.logits, batch.target, **forward)]
        value, grad, hess = made.value_grad_hess(
            logits, batch.target, out=(grad_out, hess_out), **batch.call
        )
        values.append(value)
        value, other_grad = made.value_and_grad(batch.logits, batch.target, **batch.call)
        values.append(value)
    computed_in = working(batch.logits.dtype)
    for value in values:
        value_dtype = computed_in if c.reduction == "none" else np.dtype(float)
        assert_equals_the_reference(value, truth[0], bound[0], value_dtype, computed_in)
    for result, i in ((grad, 1), (other_grad, 1), (hess, 2)):
        dtype = result.dtype.newbyteorder("=")
        assert_equals_the_reference(
            result.astype(truth[i].dtype), truth[i], bound[i], dtype, computed_in
        )
    if grad_out is not None:
        assert grad is grad_out
    after = [np.asarray(x).tobytes() for x in (batch.logits, batch.target, *batch.call.values())]
    assert after == before


@FUZZ
@given(data=st.data())
def test_softmax_losses_equal_the_reference(data):
    compare(data, *data.draw(softmax_batches(SOFTMAX)))


@FUZZ
@given(data=st.data())
def test_the_divergence_equals_the_reference(data):
    compare(data, *data.draw(softmax_batches((DISTILLATION,))))


@FUZZ
@given(data=st.data())
def test_sigmoid_losses_equal_the_reference(data):
    compare(data, *data.draw(sigmoid_batches()))
