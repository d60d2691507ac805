"""Single losses written where the caller wants them."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CASES, LOSSES, SOFTMAX, small_batch
from layouts import read_only

import fastce

NONE = [case for case in CASES if case.reduction == "none"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("case", NONE, ids=str)
def test_losses_are_those_of_a_fresh_array(case, dtype):
    batch, loss = case.batch(dtype), case.build()
    expected = loss.value_grad_hess(batch.logits, batch.target, **batch.call)
    call = {name: x for name, x in batch.call.items() if name != "grad_output"}
    for step in (1, 2):
        given = np.empty((*expected[0].shape, step), expected[0].dtype)[..., 0]
        given[...] = 12345
        assert loss(batch.logits, batch.target, loss_out=given, **call) is given
        np.testing.assert_array_equal(given, loss(batch.logits, batch.target, **call))
        given[...] = 12345
        found = loss.value_grad_hess(batch.logits, batch.target, loss_out=given, **batch.call)
        assert found[0] is given
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("loss", LOSSES)
def test_arrays_that_do_not_fit(loss):
    z, y = small_batch(loss)
    made = getattr(fastce, loss)(reduction="none")
    shape = y.shape
    for bad in (
        np.zeros(shape, np.float64),
        np.zeros(shape, np.float16),
        np.zeros((*shape, 1), np.float32),
        np.broadcast_to(np.float32(0), shape),
        read_only(np.zeros(shape, np.float32)),
    ):
        with pytest.raises(ValueError, match="loss_out"):
            made(z, y, loss_out=bad)
    with pytest.raises(TypeError, match="loss_out"):
        made(z, y, loss_out=[0.0] * len(y))
    with pytest.raises(ValueError, match=r"loss_out.*'none'"):
        getattr(fastce, loss)()(z, y, loss_out=np.zeros(shape, np.float32))


@pytest.mark.parametrize("loss", LOSSES)
def test_arrays_that_overlap(loss):
    z, y = small_batch(loss)
    made = getattr(fastce, loss)(reduction="none")
    part = z[:, 0] if loss in SOFTMAX else z
    before = z.copy()
    with pytest.raises(ValueError, match="loss_out overlaps"):
        made(z, y, loss_out=part)
    grad = np.zeros_like(z)
    part = grad[:, 0] if loss in SOFTMAX else grad
    with pytest.raises(ValueError, match="loss_out overlaps"):
        made.value_and_grad(z, y, out=grad, loss_out=part)
    weight = np.ones(y.shape, np.float32)
    with pytest.raises(ValueError, match="loss_out overlaps"):
        made(z, y, sample_weight=weight, loss_out=weight)
    np.testing.assert_array_equal(z, before)
    assert not grad.any()
    assert (weight == 1).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_nothing_is_written_before_an_error(loss):
    z, y = small_batch(loss)
    y = y.copy()
    y.flat[-1] = 71
    losses = np.full(y.shape, 12345, np.float32)
    with pytest.raises((IndexError, ValueError), match="71"):
        getattr(fastce, loss)(reduction="none")(z, y, loss_out=losses)
    assert (losses == 12345).all()
