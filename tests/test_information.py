"""The functions on probabilities: equal to SciPy and mpmath, exact at 0, and strict on input.

Arrays that broadcast together are drawn in test_random_public_calls.py.
"""

import ml_dtypes
import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats
from fuzzing import FUZZ
from hypothesis import given
from hypothesis import strategies as st

from fastce.information import (
    binary_cross_entropy,
    cross_entropy,
    entropy,
    kl_divergence,
    negative_log_likelihood,
)

EPS = np.finfo(np.float64).eps
DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


def random_distributions(seed, shape=(7, 5, 11), axis=-1, dtype=np.float64):
    logits = 3 * np.random.default_rng(seed).standard_normal(shape)
    return scipy.special.softmax(logits, axis=axis).astype(dtype)


def exact_kl(p, q):
    """KL(p‖q) of the two arrays after each was normalised, in 60 digits."""
    with mpmath.workdps(60):
        p = [mpmath.mpf(float(x)) for x in p]
        q = [mpmath.mpf(float(x)) for x in q]
        p_sum, q_sum = mpmath.fsum(p), mpmath.fsum(q)
        terms = [
            x / p_sum * (mpmath.log(x / p_sum) - mpmath.log(y / q_sum))
            for x, y in zip(p, q, strict=True)
            if x > 0
        ]
        return float(mpmath.fsum(terms))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_to_scipy(axis, dtype):
    p = random_distributions(0, axis=axis, dtype=dtype)
    q = random_distributions(1, axis=axis, dtype=dtype)
    wide_p, wide_q = p.astype(np.float64), q.astype(np.float64)
    kl = scipy.special.rel_entr(wide_p, wide_q) - wide_p + wide_q
    expected = {
        "entropy": (entropy(p, axis=axis), scipy.special.entr(wide_p).sum(axis)),
        "cross": (cross_entropy(p, q, axis=axis), -(wide_p * np.log(wide_q)).sum(axis)),
        "kl": (kl_divergence(p, q, axis=axis), kl.sum(axis)),
    }
    for ours, theirs in expected.values():
        assert ours.dtype == (np.float64 if dtype is np.float64 else np.float32)
        assert ours.shape == p.sum(axis).shape
        np.testing.assert_allclose(ours, theirs, rtol=4 * np.finfo(ours.dtype).eps, atol=4 * EPS)


@pytest.mark.parametrize("distance", [1e-1, 0.3, 1e-2, 1e-4, 1e-6, 1e-7])
def test_kl_keeps_its_digits_between_close_distributions(distance):
    # A power of two and equal counts of both signs: p and q sum to 1 without rounding, so the
    # divergence of the arrays as given is known to all digits.
    step = 2.0 ** round(np.log2(distance / 64))
    q = np.full(64, 1 / 64)
    p = q + step * np.where(np.arange(64) % 2, 1, -1)
    assert p.sum() == 1
    truth = exact_kl(p, q)
    ours = abs(kl_divergence(p, q) - truth) / truth
    naive = abs((p * np.log(p / q)).sum() - truth) / truth
    assert ours < 8 * EPS
    assert ours <= naive


@pytest.mark.parametrize("size", [1e-3, 1e-12, 1e-30, 1e-300])
@pytest.mark.parametrize("ratio", [1.7, 3.0, 0.1])
def test_kl_of_distributions_that_differ_in_a_tiny_outcome(size, ratio):
    p, q = [1 - size, size], [1 - ratio * size, ratio * size]
    assert kl_divergence(p, q) == pytest.approx(exact_kl(np.array(p), np.array(q)), rel=8 * EPS)


@FUZZ
@given(st.lists(st.floats(1e-300, 1.0), min_size=2, max_size=9), st.randoms(use_true_random=False))
def test_kl_is_exact_and_never_negative(weights, random):
    p = np.array(weights) / sum(weights)
    q = np.array(random.sample(weights, len(weights))) / sum(weights)
    ours = kl_divergence(p, q)
    assert ours >= 0
    assert ours == pytest.approx(exact_kl(p, q), rel=1e-12, abs=4 * EPS)
    assert kl_divergence(p, p) == 0


def test_zero_probabilities():
    p = [0.0, 0.25, 0.75]
    assert entropy([0.0, 1.0, 0.0]) == 0
    assert entropy(p) == pytest.approx(scipy.stats.entropy(p))
    # An outcome that never happens costs nothing, whatever its predicted probability.
    assert cross_entropy(p, p) == entropy(p)
    assert kl_divergence(p, p) == 0
    assert kl_divergence(p, [0.5, 0.25, 0.25]) == pytest.approx(0.75 * np.log(3))
    # One that happens and was given 0 costs +inf.
    assert cross_entropy([0.5, 0.25, 0.25], p) == np.inf
    assert kl_divergence([0.5, 0.25, 0.25], p) == np.inf


def test_rounding_errors_do_not_add_up_along_any_axis():
    """One after another, 100,000 equal terms have an error of 13,000 ULP."""
    p = np.full((100_000, 2), 1e-5)
    np.testing.assert_allclose(entropy(p, axis=0), 5 * np.log(10), rtol=4 * EPS)
    np.testing.assert_allclose(cross_entropy(p, p, axis=0), 5 * np.log(10), rtol=4 * EPS)
    q = p * np.tile([0.5, 1.5], 50_000)[:, None]
    expected = np.log(4 / 3) / 2
    np.testing.assert_allclose(kl_divergence(p, q, axis=0), expected, rtol=8 * EPS)


def test_the_smallest_probabilities_are_not_lost():
    tiny = 5e-324
    assert entropy([tiny, 1.0]) == pytest.approx(0, abs=1e-320)
    assert cross_entropy([0.0, 1.0], [1.0, tiny]) == pytest.approx(-np.log(tiny))
    assert kl_divergence([0.0, 1.0], [1.0, tiny]) == pytest.approx(-np.log(tiny))
    assert binary_cross_entropy(0, tiny) == tiny
    assert binary_cross_entropy(1, tiny) == -np.log(tiny)


def test_binary_cross_entropy():
    y = np.array([0, 1, 0, 1, 0, 1, 0.3, 0.0, 1.0])
    p = np.array([0, 1, 1, 0, 0.2, 0.2, 0.2, 1e-20, 0.5])
    with mpmath.workdps(60):
        truth = [
            float(-mpmath.log1p(-mpmath.mpf(0.2))),
            float(-mpmath.log(mpmath.mpf(0.2))),
            float(
                -mpmath.mpf(0.3) * mpmath.log(mpmath.mpf(0.2))
                - (1 - mpmath.mpf(0.3)) * mpmath.log1p(-mpmath.mpf(0.2))
            ),
        ]
    expected = [0, 0, np.inf, np.inf, *truth, 1e-20, np.log(2)]
    np.testing.assert_allclose(binary_cross_entropy(y, p), expected, rtol=4 * EPS)
    assert not np.signbit(binary_cross_entropy(y, p)).any()


def test_binary_cross_entropy_broadcasts_and_keeps_dtype():
    result = binary_cross_entropy(np.array([[0], [1]]), np.full(3, 0.25, np.float32))
    assert result.shape == (2, 3)
    assert result.dtype == np.float64  # the integer labels count as float64
    assert binary_cross_entropy(np.float32(1), np.float32(0.25)).dtype == np.float32


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_negative_log_likelihood_is_cross_entropy_of_one_hot(axis, dtype):
    p = random_distributions(7, (6, 6), axis=axis)
    log_probs = np.log(p).astype(dtype)
    target = np.random.default_rng(8).integers(0, 6, 6)
    one_hot = np.eye(6)[target] if axis != 0 else np.eye(6)[target].T
    ours = negative_log_likelihood(log_probs, target, axis=axis)
    rounded = np.exp(log_probs.astype(np.float64))
    expected = cross_entropy(one_hot, rounded / rounded.sum(axis, keepdims=True), axis=axis)
    # Normalising again moves each value by the logarithm of the sum that rounding left.
    np.testing.assert_allclose(ours, expected, atol=16 * float(ml_dtypes.finfo(dtype).eps))


def test_negative_log_likelihood_of_impossible_target():
    with np.errstate(divide="ignore"):
        log_probs = np.log([[1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_array_equal(negative_log_likelihood(log_probs, [0, 1]), [0, np.inf])


def test_scalars_integers_and_lists():
    assert np.ndim(entropy([0.5, 0.5])) == 0
    assert cross_entropy([0, 1], [0.5, 0.5]) == pytest.approx(np.log(2))
    assert cross_entropy(np.array([False, True]), [0.5, 0.5]) == pytest.approx(np.log(2))
    assert binary_cross_entropy(True, 0.5) == pytest.approx(np.log(2))
    assert negative_log_likelihood(np.log([0.5, 0.5]), 1) == pytest.approx(np.log(2))


def test_layout_and_byte_order_do_not_matter():
    p = random_distributions(11, (6, 8))
    expected = entropy(p)
    for other in (np.asfortranarray(p), p.astype(">f8"), np.repeat(p, 2, axis=1)[:, ::2]):
        np.testing.assert_allclose(entropy(other), expected, rtol=4 * EPS)


def test_empty_batch():
    assert entropy(np.zeros((0, 3))).shape == (0,)
    for target in (np.zeros(0, int), []):
        assert negative_log_likelihood(np.zeros((0, 3)), target).shape == (0,)


def test_input_is_not_changed_and_no_warning_is_given(recwarn):
    p = random_distributions(12)
    p[0, 0] = np.eye(11)[3]
    before = p.copy()
    kl_divergence(p, p[::-1])
    cross_entropy(p, p[::-1])
    np.testing.assert_array_equal(p, before)
    assert not recwarn.list


@np.errstate(all="raise")
def test_numbers_outside_a_type_are_no_errors_of_numpy():
    tiny = np.array([1.0, 5e-324])
    for result in (
        *(entropy(tiny), cross_entropy(tiny, tiny), kl_divergence(tiny, [1.0, 1e-300])),
        *(binary_cross_entropy(tiny[1], tiny[1]), negative_log_likelihood([0.0, -800.0], 0)),
        entropy(np.array([1.0, 1e-44], np.float32)),
    ):
        assert 0 <= result < 1e-40
    too_large = np.array(["1e4000", "0"]).astype(np.longdouble)  # inf on some platforms
    with pytest.raises(ValueError, match="p must be a probability distribution, got inf"):
        entropy(too_large)
    with pytest.raises(ValueError, match=r"exp\(log_probs\) must be a .* got inf at position 0"):
        negative_log_likelihood(too_large, 0)


@pytest.mark.parametrize("function", [cross_entropy, kl_divergence])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([0.5, 0.6], r"p\[:\] sums to 1.1, which differs from 1 by more than"),
        ([1.5, -0.5], r"p must be a probability distribution, got -0.5 at position 1"),
        ([np.nan, 1.0], r"p must be a probability distribution, got nan at position 0"),
        ([np.inf, 1.0], r"p must be a probability distribution, got inf at position 0"),
    ],
)
def test_what_is_not_a_distribution(function, bad, message):
    good = [0.5, 0.5]
    with pytest.raises(ValueError, match=message):
        entropy(bad)
    with pytest.raises(ValueError, match=message):
        function(bad, good)
    with pytest.raises(ValueError, match="q" + message[1:]):
        function(good, bad)


def test_the_message_names_the_row():
    p = random_distributions(13, (2, 3, 4), axis=1)
    p[1, :, 2] *= 2
    with pytest.raises(ValueError, match=r"p\[1, :, 2\] sums to 2"):
        entropy(p, axis=1)


def test_sum_tolerance():
    assert entropy([0.5, 0.5 + 9e-6]) > 0
    with pytest.raises(ValueError, match="sums to"):
        entropy([0.5, 0.5 + 2e-5])
    assert entropy(np.array([0.5, 0.53], np.float16)) > 0
    # A float32 softmax of many classes passes, as float64 too.
    p = random_distributions(14, (131072,), dtype=np.float32)
    assert entropy(p.astype(np.float64)) == pytest.approx(entropy(p), rel=1e-6)
    # A coarse p does not loosen what is asked of q.
    with pytest.raises(ValueError, match=r"q\[:\] sums to"):
        cross_entropy(np.array([0.5, 0.5], np.float16), [0.5, 0.53])


@pytest.mark.parametrize("bad", [-0.1, 1.1, np.nan, np.inf])
def test_binary_cross_entropy_leaves_the_unit_interval(bad):
    with pytest.raises(ValueError, match=r"y must lie in \[0, 1\], got .* at position 1$"):
        binary_cross_entropy([0.5, bad], 0.5)
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\], got [-.a-z0-9]+$"):
        binary_cross_entropy(1, bad)


def test_negative_log_likelihood_errors():
    log_probs = np.log(random_distributions(15, (3, 4)))
    with pytest.raises(ValueError, match=r"exp\(log_probs\).* sums to"):
        negative_log_likelihood(np.exp(log_probs), [0, 1, 2])  # probabilities
    with pytest.raises(ValueError, match=r"exp\(log_probs\).* sums to"):
        negative_log_likelihood(log_probs + 3, [0, 1, 2])  # logits
    with pytest.raises(IndexError, match=r"label 4 at position 2, .* 4 classes are 0 to 3"):
        negative_log_likelihood(log_probs, [0, 1, 4])
    with pytest.raises(IndexError, match="label -1 at position 0"):
        negative_log_likelihood(log_probs, [-1, 1, 4])
    with pytest.raises(ValueError, match=r"target must have shape \(3,\), .* got \(2,\)"):
        negative_log_likelihood(log_probs, [0, 1])
    with pytest.raises(TypeError, match="integer class labels, got float64"):
        negative_log_likelihood(log_probs, [0.0, 1.0, 2.0])


@pytest.mark.parametrize("bad", [np.array([0.5 + 0j, 0.5]), np.array([0.5, None]), ["0.5", "0.5"]])
def test_types_that_are_not_real(bad):
    with pytest.raises(TypeError, match="p must be real numbers"):
        entropy(bad)
    with pytest.raises(TypeError, match="q must be real numbers"):
        kl_divergence([0.5, 0.5], bad)


def test_masked_arrays_are_refused():
    with pytest.raises(TypeError, match="masked array"):
        entropy(np.ma.array([0.5, 0.5], mask=[False, True]))


def test_a_sum_that_overflows_is_no_distribution():
    with pytest.raises(ValueError, match=r"p must be a probability distribution.* sums to inf"):
        kl_divergence(np.finfo(float).max, [0.5, 0.5])


def test_shapes_that_do_not_fit():
    for function in (cross_entropy, kl_divergence):
        with pytest.raises(ValueError, match=r"p of shape \(2,\) and q of shape \(3,\) do not"):
            function([0.5, 0.5], [0.2, 0.3, 0.5])
    with pytest.raises(ValueError, match=r"y of shape \(2,\) and p of shape \(3,\) do not"):
        binary_cross_entropy([0.5, 0.5], [0.2, 0.3, 0.5])
    with pytest.raises(np.exceptions.AxisError, match="axis 1 is out of bounds"):
        entropy([0.5, 0.5], axis=1)
    with pytest.raises(TypeError, match=r"axis must be an integer, got 0\.5"):
        entropy([0.5, 0.5], axis=0.5)
    with pytest.raises(ValueError, match=r"axis must .* got 1180591620717411303424"):
        entropy([0.5, 0.5], axis=2**70)
    with pytest.raises(ValueError, match=r"axis must .* got -1180591620717411303424"):
        negative_log_likelihood([0.0], 0, axis=-(2**70))
    with pytest.raises(ValueError, match="no outcomes along axis 1"):
        entropy(np.zeros((3, 0)))
