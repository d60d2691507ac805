"""`softmax_kl_divergence` of the C interface gives what Python gives, or says what is wrong."""

import ctypes

import numpy as np
import pytest
from c_functions import BAD_ARGUMENT, OK, at, call_divergence, function

import fastce


@pytest.fixture(params=["float32", "float64"])
def pair(request, rng):
    return [x.astype(request.param) for x in rng.normal(size=(2, 30, 17))]


@pytest.mark.parametrize("orders", ["CC", "FF", "CF"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_it_gives_the_bits_of_python(isa, pair, temperature, orders, rng):
    z, t = (np.array(x, order=order) for x, order in zip(pair, orders, strict=True))
    weight = rng.integers(3, size=30).astype(z.dtype)
    grad, loss = np.full_like(z, np.nan), np.full(30, np.nan, z.dtype)
    status, total = call_divergence(
        z, t, temperature, weight=weight, scale=0.5, grad=grad, loss=loss
    )
    kl = fastce.SoftmaxKLDivergence(temperature=temperature, reduction="none")
    expected = kl.value_and_grad(z, t, sample_weight=weight, grad_output=0.5)
    assert status == OK
    assert total == pytest.approx(loss.sum(dtype=np.float64), rel=1e-12)
    np.testing.assert_array_equal(loss, expected[0])
    np.testing.assert_array_equal(grad, expected[1])
    assert call_divergence(z, t, temperature, weight=weight) == (OK, pytest.approx(total, rel=1e-6))


def test_gradient_in_place_of_the_logits(isa, pair):
    z, t = pair
    expected = fastce.SoftmaxKLDivergence(reduction="sum").value_and_grad(z, t)
    assert call_divergence(z, t, grad=z) == (OK, pytest.approx(expected[0], rel=1e-12))
    np.testing.assert_array_equal(z, expected[1])


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf, 2.0**51, 2.0**-51])
def test_temperatures_out_of_range(pair, temperature):
    is_in_range = 0 < temperature < np.inf and pair[0].dtype == np.float64
    status, total = call_divergence(*pair, temperature)
    assert status == (OK if is_in_range else BAD_ARGUMENT)
    assert is_in_range or total == -1.0


def test_what_may_not_be_null(pair):
    z, t = pair
    total = ctypes.c_double(-1.0)
    call = function(f"softmax_kl_divergence_{z.dtype}")
    rest = (None, 1.0, 1.0, None, 0, 0, None)
    assert call(None, *z.shape, *z.strides, at(t), *t.strides, *rest, ctypes.addressof(total)) == 4
    assert call(at(z), *z.shape, *z.strides, None, *t.strides, *rest, ctypes.addressof(total)) == 4
    assert call(at(z), *z.shape, *z.strides, at(t), *t.strides, *rest, None) == 4
    assert call(at(z), 30, 17, 5, 3, at(t), *t.strides, *rest, ctypes.addressof(total)) == 4
    assert call(None, 0, 17, 8, 8, None, 8, 8, *rest, ctypes.addressof(total)) == OK
    assert total.value == 0.0
