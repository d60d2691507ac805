"""exp, log1p, log and tanh of the kernels: their error over the stated ranges, and special values.

The bounds below are what functions.hpp and the tanh of passes.pxi promise. Those of
float32 are measured on every number there is, outside of this suite: `python -m tools.exhaustive`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest
from bounds import ulps

from fastce._call import variants

DTYPES = [np.float32, np.float64]
EXTENDED = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps
SAMPLES = 200_000 if EXTENDED else 5_000  # of each kind; mpmath takes 10 µs for each

WORST_ULP = {
    ("exp", np.float32): 1.2,
    ("exp", np.float64): 1.1,
    ("log1p", np.float32): 1.6,
    ("log1p", np.float64): 1.6,
    ("log", np.float32): 1.0,
    ("log", np.float64): 1.0,
    ("tanh", np.float32): 1.7,
    ("tanh", np.float64): 1.6,
}
EXPM1_ULP = {np.float32: 4.5, np.float64: 2.5}
EXPM1_REST_ULP = {np.float32: 4.5, np.float64: 6.5}
LARGEST_EXPONENT = {np.float32: 88.0, np.float64: 709.0}


def elementary(name, x):
    return variants.core.elementary(name, np.ascontiguousarray(x))


def expm1_rest(x):
    """exp(x) - 1 - x."""
    return (np if isinstance(x, np.ndarray) else mpmath).expm1(x) - x


def with_mpmath(name, x):
    function = expm1_rest if name == "expm1_rest" else getattr(mpmath, name)
    with mpmath.workprec(120):
        return np.array([np.longdouble(str(function(mpmath.mpf(float(v))))) for v in x])


def truth(name, x):
    if x.dtype == np.float64 and not EXTENDED:
        return with_mpmath(name, x).astype(np.float64)
    wide = x.astype(np.float64 if x.dtype == np.float32 else np.longdouble)
    return (expm1_rest if name == "expm1_rest" else getattr(np, name))(wide)


def samples(name, dtype, rng):
    """Numbers over the stated range, denser where an error may hide."""

    def uniform(low, high):
        return rng.uniform(low, high, SAMPLES)

    def powers_of_two(low, high):
        return 2.0 ** uniform(low, high)

    info, largest = np.finfo(dtype), LARGEST_EXPONENT[dtype]
    if name == "exp":
        half_way = (np.arange(-100, 100) + 0.5) * np.log(2)  # where k changes and |r| is largest
        kinds = [
            uniform(-largest, largest),
            uniform(-2, 0),
            -powers_of_two(-60, np.log2(largest)),
            powers_of_two(-60, np.log2(largest)),
            np.concatenate([np.nextafter(half_way, d) for d in (-np.inf, np.inf)]).clip(-88, 88),
        ]
    elif name == "log1p":
        kinds = [uniform(0, 1), powers_of_two(-info.nmant - 10, 0)]
        if dtype is np.float64:
            kinds += [uniform(1, 100), powers_of_two(0, 52.99), uniform(0.4, 0.43)]
    elif name == "log":
        around_1 = np.concatenate([1 - powers_of_two(-23, -3), 1 + powers_of_two(-23, -3)])
        kinds = [
            powers_of_two(info.minexp, info.maxexp - 0.51),
            uniform(0.5, 2),
            around_1,
            uniform(0.7, 0.72),
        ]
    else:
        kinds = [
            uniform(-1, 1),
            uniform(0.53, 0.57),  # where the two formulas meet
            powers_of_two(-40, 7),
            -powers_of_two(-40, 7),
        ]
    return np.concatenate(kinds).astype(dtype)


@pytest.mark.parametrize(("name", "dtype"), WORST_ULP)
def test_worst_error(isa, name, dtype, rng):
    x = samples(name, dtype, rng)
    assert ulps(elementary(name, x), truth(name, x), dtype) <= WORST_ULP[name, dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_expm1(isa, dtype, rng):
    lowest = {np.float32: -87.0, np.float64: -708.0}[dtype]
    x = samples("exp", dtype, rng).clip(lowest)
    assert ulps(elementary("expm1", x), truth("expm1", x), dtype) <= EXPM1_ULP[dtype]
    # Where the difference of the truth keeps enough digits.
    least = {np.float32: 1e-4, np.float64: 1e-2}[dtype]
    x = x[(np.abs(x) >= least) & (np.abs(x) <= 1)]
    error = ulps(elementary("expm1_rest", x), truth("expm1_rest", x), dtype)
    assert error <= EXPM1_REST_ULP[dtype]


def test_log_of_a_quotient(isa, rng):
    """In float64, for results in float32, over all quotients of sums and pivots of float32."""
    powers = 2.0 ** rng.uniform(52, 380, SAMPLES)
    x = np.concatenate([samples("log1p", np.float64, rng), powers])
    true = truth("log1p", x).astype(np.float64)
    np.testing.assert_allclose(elementary("log_of_quotient", x), true, rtol=1e-10, atol=0)
    assert np.isnan(elementary("log_of_quotient", np.array([np.nan, -np.nan]))).all()
    assert elementary("log_of_quotient", np.zeros(1))[0] == 0.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_moderate_exp_is_in_proportion(isa, dtype, rng):
    """A row's exponentials, up to a factor: the result at 0."""
    lowest, highest = {np.float32: (-87, 40), np.float64: (-100, 100)}[dtype]
    x = samples("exp", dtype, rng).clip(lowest, highest)
    unit = elementary("exp_in_safe_range", np.zeros(1, dtype))[0]
    assert 1 <= unit < 2
    for name, bound in (("", WORST_ULP["exp", dtype]), ("rough_", 4.5)):
        assert elementary(f"{name}exp_in_safe_range", np.zeros(1, dtype))[0] == unit
        error = ulps(elementary(f"{name}exp_in_safe_range", x), truth("exp", x) * unit, dtype)
        assert error <= bound


@pytest.mark.parametrize("name", ["exp", "log1p", "log", "tanh"])
def test_extended_precision_is_true(name, rng):
    """The yardstick itself: it errs by far less than what is measured with it."""
    x = rng.choice(samples(name, np.float64, rng), 500)
    assert ulps(truth(name, x).astype(np.longdouble), with_mpmath(name, x), np.float64) < 0.51
    if EXTENDED:
        assert ulps(truth(name, x), with_mpmath(name, x), np.float64) < 0.001


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "x", "expected"),
    [
        ("exp", 0.0, 1.0),
        ("exp", -0.0, 1.0),
        ("exp", -np.inf, 0.0),
        ("exp", -1e9, 0.0),
        ("exp", np.nan, np.nan),
        ("log1p", 0.0, 0.0),
        ("log1p", np.nan, np.nan),
        ("log", 1.0, 0.0),
        ("log", np.nan, np.nan),
        ("tanh", 0.0, 0.0),
        ("tanh", -0.0, -0.0),
        ("tanh", np.inf, 1.0),
        ("tanh", -np.inf, -1.0),
        ("tanh", np.nan, np.nan),
    ],
)
def test_special_values(isa, dtype, name, x, expected):
    result = elementary(name, np.full(3, x, dtype))
    np.testing.assert_array_equal(result, np.full(3, expected, dtype))
    if expected == 0:
        assert np.all(np.signbit(result) == np.signbit(expected))


@pytest.mark.parametrize("gamma", [0.3, 0.5, 1.5, 3.7, 40.0, 2000.0])
def test_power_of_fraction(isa, gamma, rng):
    """Where the power is a normal number; a logarithm rounded to a double would cost 400 ULP."""
    n = SAMPLES // 5
    kinds = [
        rng.uniform(0, 1, n),
        1 - 2.0 ** rng.uniform(-53, -1, n),
        2.0 ** rng.uniform(-1073, 0, n),
    ]
    q = np.concatenate(kinds)
    q = q[np.log(q) * gamma > -708]
    if EXTENDED:
        exact = np.power(q.astype(np.longdouble), np.longdouble(gamma))
    else:
        with mpmath.workprec(120):
            exact = np.array([float(mpmath.mpf(float(x)) ** mpmath.mpf(gamma)) for x in q])
    power = variants.core.elementary("power_of_fraction", q, gamma)
    assert ulps(power, exact, np.float64) <= (1.7 if EXTENDED else 2.2)  # 2.2: a rounded truth


@pytest.mark.parametrize(
    ("q", "gamma", "expected"),
    [
        (0.0, 0.0, 1.0),
        (0.0, 0.5, 0.0),
        (0.5, 0.0, 1.0),
        (1.0, 0.5, 1.0),
        (1.0, 1e308, 1.0),
        (0.5, 1e308, 0.0),
        (np.nan, 0.5, np.nan),
    ],
)
def test_powers_at_the_ends(isa, q, gamma, expected):
    power = variants.core.elementary("power_of_fraction", np.full(3, q), gamma)
    np.testing.assert_array_equal(power, np.full(3, expected))


@pytest.mark.parametrize("dtype", DTYPES)
def test_exp_is_0_or_right_where_it_is_subnormal(isa, dtype):
    info = np.finfo(dtype)
    last_normal = np.log(np.longdouble(info.smallest_normal))
    x = np.linspace(float(last_normal) - 40, float(last_normal), 10_000).astype(dtype)
    result, exact = elementary("exp", x), np.exp(x.astype(np.longdouble))
    assert np.all((result == 0) | (np.abs(result - exact) <= info.smallest_subnormal))
    # No number of the promised range is flushed.
    normal = np.nextafter(dtype(last_normal), dtype(0))
    assert elementary("exp", np.array([normal]))[0] >= info.smallest_normal


@pytest.mark.parametrize("dtype", DTYPES)
def test_ends_are_monotonic(isa, dtype):
    """Where a bound is met at an end of the range, rounding must not step over it."""
    step = np.finfo(dtype).epsneg
    below_0 = -np.arange(1000, -1, -1, dtype=dtype) * step
    exp = elementary("exp", below_0)
    assert np.all(np.diff(exp) >= 0)
    assert exp[-1] == 1
    assert exp[0] < 1

    tiny = np.geomspace(float(np.finfo(dtype).smallest_normal), float(step) / 2, 200).astype(dtype)
    for name in ("log1p", "tanh"):
        np.testing.assert_array_equal(elementary(name, tiny), tiny)

    large = np.linspace(3, 40, 100_000).astype(dtype)
    tanh = elementary("tanh", large)
    assert tanh.max() == 1
    assert np.all(np.diff(tanh) >= -step)
    assert np.all(tanh[large >= 20] == 1)

    around_1 = 1 + np.arange(-1000, 1001).astype(dtype) * np.finfo(dtype).eps
    assert np.all(np.diff(elementary("log", around_1)) > 0)
    np.testing.assert_array_equal(np.sign(elementary("log", around_1)), np.sign(around_1 - 1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_tanh_is_odd(isa, dtype, rng):
    x = samples("tanh", dtype, rng)
    np.testing.assert_array_equal(elementary("tanh", -x), -elementary("tanh", x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["exp", "log1p", "log", "tanh"])
def test_an_element_does_not_depend_on_its_place(isa, name, dtype, rng):
    x = rng.uniform(0.1, 1, 67).astype(dtype)
    whole = elementary(name, x)
    for start in range(1, 67, 7):
        np.testing.assert_array_equal(elementary(name, x[start:].copy()), whole[start:])


def test_variants_with_fused_multiply_agree_bit_for_bit(rng):
    """The width of a vector changes no bit, except by a float32 table that is as long as a vector.

    AVX-512 also splits doubles by instructions of its own, at another sqrt(2).
    """
    fused = {np.float32: {"wide", "avx512"}, np.float64: {"avx2", "wide"}}
    for name, dtype in WORST_ULP:
        for alike in (fused[dtype], {"baseline", "scalar"}):
            present = [variants.load(name) for name in variants.available() if name in alike]
            x = samples(name, dtype, rng)[::7].copy()
            results = [core.elementary(name, x).tobytes() for core in present]
            assert results[1:] == results[:-1]


@pytest.mark.skipif(
    not (Path(__file__).parents[2] / "tools" / "polynomials.py").exists(),
    reason="the sources are not beside the tests",
)
def test_polynomials_are_those_of_their_script():
    path = Path(__file__).parents[2] / "tools" / "polynomials.py"
    spec = importlib.util.spec_from_file_location("polynomials", path)
    polynomials = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "polynomials", polynomials)  # where dataclasses look for it
        spec.loader.exec_module(polynomials)
        paths = (polynomials.HEADER, polynomials.TABLES)
        header, tables = (path.read_text(encoding="utf-8") for path in paths)
        assert polynomials.differences(header, tables) == []
        spoilt = header.replace("0x1.555518p-5f", "0x1.555519p-5f")
        assert len(polynomials.differences(spoilt, tables)) == 1
        spoilt = tables.replace("0x1.0b5586p0f", "0x1.0b5588p0f")
        assert len(polynomials.differences(header, spoilt)) == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("floor", [0.0, 0.05])
@pytest.mark.parametrize("size", [1, 2, 67, 140_000])  # the last in two tasks
def test_hessians_are_raised_to_their_floor(isa, dtype, floor, size, rng):
    """As NumPy computes it, bit for bit."""
    hess, grad = (rng.normal(size=size).astype(dtype) for _ in range(2))
    special = [np.nan, np.inf, -np.inf, 0.0, 1e-20, -1e-20]
    for array in (hess, grad):
        places = rng.integers(size, size=size // 10)
        array[places] = rng.choice(special, places.size)
    least = np.full(size, 1e-16, dtype)
    if floor:
        least = np.maximum(least, np.abs(grad) * dtype(floor))
    product = hess * dtype(1.25)
    right = np.where(np.isnan(least), product, np.maximum(product, least))  # NaN is no floor
    variants.core.raise_to_floor(hess, grad, 1.25, floor, 1e-16)
    np.testing.assert_array_equal(hess, right)
