"""softmax, log_softmax and logsumexp: their axes, masks, types and errors."""

from __future__ import annotations

import itertools
import json
import sys
from functools import partial
from importlib.util import find_spec

import numpy as np
import pytest
from bounds import working
from cases import DTYPES
from layouts import LAYOUTS, read_only
from processes import SUPPORT, peak, printed_by
from scipy_cases import MODULE
from softmax_truth import assert_close, truth

import fastce

INF, NAN = np.inf, np.nan
LIKE_LOGITS = ("softmax", "log_softmax")
NAMES = (*LIKE_LOGITS, "logsumexp")
MIB = 1 << 20


# SciPy's own tests --------------------------------------------------------------------------------


def test_the_tests_of_scipy(tmp_path, record_property):
    """SciPy's own tests on our functions, all that are real and without `b` or `return_sign`.

    Of SciPy 1.17 these are 30.
    """
    pytest.importorskip("scipy")
    if find_spec(MODULE) is None:
        pytest.skip("this SciPy comes without its tests")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    plainly = {"SCIPY_ARRAY_API": "", "PYTEST_ADDOPTS": ""}
    command = (sys.executable, SUPPORT / "scipy_cases.py")
    printed = printed_by(*command, directory=tmp_path, **plainly)
    outcomes = json.loads(printed.splitlines()[-1])
    counts = {outcome: len(cases) for outcome, cases in outcomes.items()}
    record_property("cases of SciPy", counts)
    print(f"SciPy's cases: {counts}; skipped are those with other arguments")
    assert not outcomes["failed"], printed
    assert counts["passed"] >= 20


# Axes ---------------------------------------------------------------------------------------------

AXES = [None, (), 0, 1, -1, (1,), (0, 1), (2, 0), (-1, -2), (1, 3), (3, 0, 1), (0, 1, 2, 3)]


def several_axes(layout, dtype, rng):
    z = (rng.normal(size=(4, 3, 5, 6)) * 4).astype(DTYPES[dtype])
    return {"transposed": lambda a: a.transpose(2, 0, 3, 1), "C": np.copy, **LAYOUTS}[layout](z)


@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("layout", ["C", "transposed", *LAYOUTS])
@pytest.mark.parametrize("name", NAMES)
def test_several_axes(name, layout, axis, isa, rng):
    function = getattr(fastce, name)
    for dtype in DTYPES:
        z = several_axes(layout, dtype, rng)
        mask = rng.random((5, 6) if layout == "C" else z.shape) < 0.7
        mask = mask if layout == "C" else mask[::-1, :, ::-1]
        for where in (None, mask):
            expected = truth(name, z, axis, where)
            if name == "logsumexp":
                assert_close(function(z, axis=axis, where=where, keepdims=True), expected, dtype)
                axes = tuple(range(4)) if axis is None else axis
                expected = np.squeeze(expected, axis=axes)
            assert_close(function(z, axis=axis, where=where), expected, dtype)


@pytest.mark.parametrize("axis", [None, (1, 2), (0, 2)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_tuple_of_axes_is_one_axis_of_them_all(name, axis, isa, rng):
    """Bit for bit, where the rows are the same in memory."""
    z = rng.normal(size=(7, 8, 9)).astype(np.float32)
    kept = [i for i in range(3) if axis is not None and i not in axis]
    order = [*kept, *(i for i in range(3) if i not in kept)]
    flat = z.transpose(order).reshape(*(z.shape[i] for i in kept), -1)
    result = np.asarray(getattr(fastce, name)(z, axis=axis))
    if name in LIKE_LOGITS:
        result = result.transpose(order).reshape(flat.shape)
    np.testing.assert_array_equal(result, getattr(fastce, name)(flat))


@pytest.mark.parametrize("name", NAMES)
def test_the_default_axis_is_the_last(name, rng):
    z = rng.normal(size=(3, 4, 5))
    function = getattr(fastce, name)
    np.testing.assert_array_equal(function(z), function(z, axis=2))
    np.testing.assert_array_equal(function(z), function(z, axis=(np.int8(-1),)))


@pytest.mark.parametrize("axis", [None, 0, (0, 2), (1, 2), (0, 1)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_outputs_with_several_axes(name, axis, isa, rng):
    function = getattr(fastce, name)
    z = rng.normal(size=(4, 5, 6)).astype(np.float32)
    where = rng.random(z.shape) < 0.8
    for mask in (None, where):
        expected = function(z, axis=axis, where=mask)
        shape = np.shape(expected)
        room = np.full((*shape, 2), 7, np.float32)
        for out in (
            np.full(shape, 7, np.float32),
            np.full(shape, 7, ">f4"),
            room[..., 1],
            np.full(shape[::-1], 7, np.float32).T,
            np.full(shape, 7, np.float32)[(..., *(slice(None, None, -1),) * len(shape))],
        ):
            assert function(z, axis=axis, where=mask, out=out) is out
            # Through a buffer, rows may be summed up in another order.
            np.testing.assert_allclose(out, expected, rtol=4e-7)
        np.testing.assert_array_equal(room[..., 0], 7)
        if name in LIKE_LOGITS:
            for maker in (np.copy, np.asfortranarray, lambda a: np.flip(a.copy(), 1)):
                alias = maker(z)
                by_itself = function(alias, axis=axis, where=mask)
                function(alias, axis=axis, where=mask, out=alias)
                np.testing.assert_allclose(alias, by_itself, rtol=4e-7)


def test_outputs_of_16_bits_in_float32(isa, rng):
    z = rng.normal(size=(4, 5, 6)).astype(np.float16)
    for name, axis in itertools.product(LIKE_LOGITS, (None, -1, (0, 2), (1, 2))):
        out = np.zeros(z.shape, np.float32)
        getattr(fastce, name)(z, axis=axis, out=out)
        wide = getattr(fastce, name)(z.astype(np.float32), axis=axis)
        np.testing.assert_array_equal(out, wide)


def test_keepdims(rng):
    z = rng.normal(size=(3, 4, 5))
    for axis in (0, -1, None, (0, 2), (), (2, 1, 0)):
        kept = fastce.logsumexp(z, axis=axis, keepdims=True)
        assert kept.shape == np.sum(z, axis=axis, keepdims=True).shape
        np.testing.assert_array_equal(np.squeeze(kept), fastce.logsumexp(z, axis=axis).squeeze())
        np.testing.assert_allclose(fastce.log_softmax(z, axis=axis), z - kept, atol=1e-14)
        out = np.zeros(kept.shape, ">f8")
        assert fastce.logsumexp(z, axis=axis, keepdims=np.True_, out=out) is out
        np.testing.assert_array_equal(out, kept)
    with pytest.raises(ValueError, match=r"out must have shape \(3, 1, 5\)"):
        fastce.logsumexp(z, axis=1, keepdims=True, out=np.zeros((3, 5)))


def test_every_number_of_threads_gives_the_same(threads, rng):
    spread = rng.normal(size=(60, 500, 41)).astype(np.float32)[:, :, 1:]
    rows, y = rng.normal(size=(3_000, 300)).astype(np.float32), rng.integers(300, size=3_000)
    results = []
    for n in (1, 2, 3):
        threads(n)
        calls = itertools.product(NAMES, [(0, 2), (1, 2), None, 0, -1], [None, spread > -1])
        found = [getattr(fastce, name)(spread, axis=axis, where=w) for name, axis, w in calls]
        found += fastce.token_log_probs(spread, np.zeros(spread.shape[:2], int))
        found += [getattr(fastce, name)(rows) for name in NAMES]
        found += fastce.token_log_probs(rows, y)
        results.append([x.tobytes() for x in found])
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("axis", [None, (1, 2), (0, 2)], ids=str)
def test_several_axes_take_no_copy_of_the_array(axis, rng):
    z = rng.normal(size=(512, 64, 64)).astype(np.float32)
    out = np.empty_like(z)
    fastce.softmax(z)  # the first large call imports and starts the thread pool
    same_axes = () if axis == (0, 2) else (np.transpose, lambda a: a[::-1, ::-1, ::-1])
    for layout in (np.asarray, *same_axes):
        view, target = layout(z), layout(out)

        def call(name, view=view, **options):
            return getattr(fastce, name)(view, axis=axis, **options)

        for name in LIKE_LOGITS:
            assert peak(partial(call, name, out=target)) < 2 * MIB
            if view.strides[0] > 0:  # else rows, here all, are gathered: a new array runs forwards
                assert peak(partial(call, name)) < z.nbytes + 2 * MIB
        assert peak(partial(call, "logsumexp")) < 2 * MIB


# Types --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["?", "b", "B", "h", "H", "i", "I", "q", "Q", ">i2", ">u8"])
def test_integers_and_bools(name, dtype, isa, rng):
    function = getattr(fastce, name)
    z = rng.integers(0, 60, (6, 7)).astype(dtype)
    before = z.copy()
    for array in (z, z[::-1, ::2], z.T):
        result = function(array)
        assert result.dtype == np.float64
        np.testing.assert_array_equal(result, function(array.astype(np.float64)))
    np.testing.assert_array_equal(z, before)
    out = np.zeros((6,) if name == "logsumexp" else z.shape)
    assert function(z, out=out) is out
    np.testing.assert_array_equal(out, function(z))
    with pytest.raises(ValueError, match="out must be float64"):
        function(z, out=np.zeros(out.shape, np.float32))


def test_integers_of_64_bits():
    z = np.array([2**63, 2**62], np.uint64)
    np.testing.assert_array_equal(fastce.softmax(z), [1, 0])
    assert fastce.logsumexp(z) == 2.0**63
    assert fastce.logsumexp([1000, 1000]) == 1000 + np.log(2)


@pytest.mark.parametrize("axis", [-1, 0, None, ()], ids=str)
@pytest.mark.parametrize("scalar", [2, 2.5, True, np.float32(2.5), np.float16(2), np.array(2.5)])
def test_scalars(scalar, axis, isa):
    dtype = np.float64 if np.asarray(scalar).dtype.kind in "ib" else np.asarray(scalar).dtype
    for name, expected in (("softmax", 1), ("log_softmax", 0), ("logsumexp", float(scalar))):
        result = getattr(fastce, name)(scalar, axis=axis)
        assert np.isscalar(result)
        assert result == expected
        assert result.dtype == (working(np.dtype(dtype)) if name == "logsumexp" else dtype)
        out = np.zeros((), result.dtype)
        assert getattr(fastce, name)(scalar, axis=axis, out=out) is out
        assert out == expected
    assert np.isnan(fastce.softmax(scalar, where=False))
    assert fastce.logsumexp(scalar, where=False) == -INF
    assert fastce.logsumexp(scalar, keepdims=True) == float(scalar)


def test_a_result_without_axes_is_a_scalar():
    for result in (fastce.logsumexp([1.0, 2.0]), fastce.logsumexp([[1, 2], [3, 4]], axis=None)):
        assert type(result) is np.float64
    assert type(fastce.logsumexp(np.zeros(3, np.float16))) is np.float32


# Masks --------------------------------------------------------------------------------------------


def masked_rows(classes, dtype, rng):
    z = (rng.normal(size=(40, classes)) * 5).astype(DTYPES[dtype])
    mask = rng.random(z.shape) < 0.6
    mask[3] = False
    mask[4] = True
    mask[5] = np.arange(classes) == classes - 1
    z[6, 0], z[7, -1], z[8] = NAN, INF, -INF
    mask[6:8] = False  # nothing of them is read
    z[9, 0], z[10, 0] = NAN, INF
    mask[9:11, 0] = True
    mask[9:11, 1:] = False
    return z, mask


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 3, 10, 64, 100, 193, 300, 5000])
@pytest.mark.parametrize("name", NAMES)
def test_a_masked_logit_is_one_of_minus_infinity(name, classes, dtype, isa, rng):
    z, mask = masked_rows(classes, dtype, rng)
    function = getattr(fastce, name)
    result = function(z, where=mask)
    substituted = z.copy()
    substituted[~mask] = -INF
    without = function(substituted)
    # Rows of +inf alone have a test of their own.
    np.testing.assert_array_equal(np.isnan(result)[np.arange(40) != 10],
                                  np.isnan(without)[np.arange(40) != 10])  # fmt: skip
    rest = np.setdiff1d(np.arange(40), [10])
    expected = truth(name, z, -1, mask)
    if name == "logsumexp":
        expected = expected[:, 0]
        np.testing.assert_array_equal(result[[3, 6, 7, 8]], -INF)
    else:
        softmax_exists = np.isfinite(truth("logsumexp", z, -1, mask)[:, 0])
        assert np.isnan(result[~softmax_exists]).all()
        masked = result[softmax_exists][~mask[softmax_exists]]
        np.testing.assert_array_equal(masked, 0 if name == "softmax" else -INF)
    assert_close(result[rest], expected[rest], DTYPES[dtype])
    planes = function(np.asfortranarray(z).T, axis=0, where=mask.T)
    assert_close(planes.T[rest], expected[rest], DTYPES[dtype])


def test_masks_broadcast(isa, rng):
    z = rng.normal(size=(4, 5, 6))
    for shape in ((), (6,), (5, 1), (4, 1, 1), (1, 5, 6), (4, 5, 6)):
        mask = rng.random(shape) < 0.7
        for name, axis in itertools.product(NAMES, (-1, 0, None, (0, 2))):
            function = getattr(fastce, name)
            whole = np.broadcast_to(mask, z.shape).copy()
            for given in (mask, mask.tolist(), np.asfortranarray(mask)):
                result = function(z, axis=axis, where=given)
                np.testing.assert_allclose(result, function(z, axis=axis, where=whole), rtol=1e-14)


# Values -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [1, 2, 3, 10, 96, 97, 192, 193, 300, 5000])
def test_logsumexp_of_a_row_of_plus_infinity_alone(classes, dtype, isa):
    for neighbour in ((), (0.0,), (1.0, -2000.0), (INF,), (-INF,), (NAN,)):
        z = np.full((1 + len(neighbour), classes), INF, DTYPES[dtype])
        for row, number in enumerate(neighbour):
            z[1 + row] = number
        result = fastce.logsumexp(z)
        assert result[0] == INF
        for number, value in zip(neighbour, result[1:], strict=True):
            np.testing.assert_allclose(value, number + np.log(classes), rtol=1e-6)
        assert np.isnan(fastce.softmax(z)[0]).all()
        assert np.isnan(fastce.log_softmax(z)[0]).all()
        whole = fastce.logsumexp(z, axis=None)
        np.testing.assert_array_equal(whole, NAN if NAN in neighbour else INF)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (0, 0), (2, 0, 3)], ids=str)
def test_nothing(shape, isa):
    """A sum over nothing is log 0, as in SciPy; what has no element has no softmax to be wrong."""
    if shape[-1] and not shape[0]:
        tokens = fastce.token_log_probs(np.zeros(shape), np.zeros(shape[:-1], int))
        assert [x.shape for x in tokens] == [shape[:-1]] * 3
    for dtype, axis in itertools.product(("f2", "f4", ">f8", "i8", "?"), (-1, 0, None, (0, -1))):
        if isinstance(axis, tuple) and len(shape) == 1:
            continue
        z = np.zeros(shape, dtype)
        for where in (None, np.ones(shape, bool)):
            for name in LIKE_LOGITS:
                assert getattr(fastce, name)(z, axis=axis, where=where).shape == shape
            result = fastce.logsumexp(z, axis=axis, where=where)
            assert np.shape(result) == np.sum(z, axis=axis).shape
            np.testing.assert_array_equal(result, -INF)
            kept = fastce.logsumexp(z, axis=axis, where=where, keepdims=True)
            assert kept.shape == np.sum(z, axis=axis, keepdims=True).shape


@pytest.mark.parametrize("layout", sorted(LAYOUTS.keys() - {"read_only"}))
def test_sums_of_nothing_are_written_to_any_output(layout, isa):
    out = LAYOUTS[layout](np.full((4, 6), 7.0))
    assert fastce.logsumexp(np.zeros((4, 6, 0)), out=out) is out
    np.testing.assert_array_equal(out, -INF)


# Errors -------------------------------------------------------------------------------------------


CALLS = {name: partial(getattr(fastce, name), [[0.0, 1.0]]) for name in NAMES}
CALLS["token_log_probs"] = partial(fastce.token_log_probs, [[0.0, 1.0]], [0])


@pytest.mark.parametrize("axis", [2, -3, 2**31, -(2**31) - 1, 2**63, 2**70, (0, 2), (2**70,)])
@pytest.mark.parametrize("name", CALLS)
def test_an_axis_out_of_range(name, axis):
    number = axis[-1] if isinstance(axis, tuple) else axis
    takes_one_axis = name == "token_log_probs"
    error = TypeError if takes_one_axis and isinstance(axis, tuple) else ValueError
    with pytest.raises(error, match=rf"^axis.*{number}"):
        CALLS[name](axis=axis)


@pytest.mark.parametrize(
    ("name", "axis"),
    [
        *itertools.product(CALLS, [1.0, "1", [0, 1], (0, 1.0), (None,), 1j, np.array([0, 1])]),
        *[("token_log_probs", axis) for axis in (None, (0,), (0, 1))],
    ],
)
def test_an_axis_that_is_no_integer(name, axis):
    others = "" if name == "token_log_probs" else ", a tuple of integers or None"
    with pytest.raises(TypeError, match=rf"^axis must be an integer{others}, got"):
        CALLS[name](axis=axis)


@pytest.mark.parametrize("name", NAMES)
def test_other_axes_that_are_refused(name):
    function = getattr(fastce, name)
    with pytest.raises(ValueError, match="axis must name each axis once"):
        function(np.zeros((3, 4)), axis=(1, -1))
    for axis in (1, -2, 2**31, (0, -1)):
        with pytest.raises(ValueError, match="class axis"):
            function(1.0, axis=axis)
    with pytest.raises(ValueError, match="class axis"):
        fastce.token_log_probs(1.0, 0)


@pytest.mark.parametrize(
    "logits",
    [
        ["a", "b"],
        "a",
        b"a",
        None,
        [None, 1.0],
        [1j, 2],
        np.ones(3, np.complex64),
        np.ones(3, object),
        [2**70, 1],
        np.zeros(3, "M8[s]"),
        np.zeros(3, "m8[s]"),
        np.zeros(3, "V4"),
        np.zeros(3, [("x", "f8")]),
        *([np.zeros(3, np.longdouble)] if np.dtype(np.longdouble).itemsize > 8 else []),
        {1.0, 2.0},
        object(),
        np.ma.masked_array([1.0, 2.0], [True, False]),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("name", NAMES)
def test_logits_that_are_no_real_numbers(name, logits):
    for axis in (-1, None):
        with pytest.raises(TypeError, match=r"^logits "):
            getattr(fastce, name)(logits, axis=axis)


@pytest.mark.parametrize("name", NAMES)
def test_other_arguments_that_are_refused(name):
    function = getattr(fastce, name)
    z = np.arange(12.0).reshape(3, 4)
    before = z.copy()
    out = np.zeros(3) if name == "logsumexp" else z
    with pytest.raises(ValueError, match=r"^logits cannot be converted to an array"):
        function([[1.0, 2.0], [3.0]])
    for where in (np.ones((3, 4), int), [1.0, 0.0, 1.0, 1.0], "yes"):
        with pytest.raises(TypeError, match=r"^where must be bool"):
            function(z, where=where, out=out)
    for shape in ((3,), (4, 1), (2, 3, 4)):
        with pytest.raises(ValueError, match=r"^where "):
            function(z, where=np.ones(shape, bool), out=out)
    fitting = np.zeros(out.shape)
    for wrong in (np.zeros((4, 3)), fitting.astype(np.float32), read_only(fitting)):
        with pytest.raises(ValueError, match=r"^out "):
            function(z, out=wrong)
    with pytest.raises(ValueError, match=r"^out "):
        function(z, axis=None, out=np.zeros((4, 3)))
    with pytest.raises(TypeError, match=r"^out "):
        function(z, out=[0.0])
    with pytest.raises(ValueError, match=r"^out overlaps another argument"):
        function(z, out=z[:, 0] if name == "logsumexp" else z[::-1])
    with pytest.raises(TypeError, match=r"^logits .* where=~mask"):
        function(np.ma.masked_array(z, z > 3))
    # The mask may share memory with the output no more than the logits may.
    room = np.zeros(z.shape, ">f8")
    room_of_mask = room.view(bool)[:, :4]
    destination = room[:, 0] if name == "logsumexp" else room
    with pytest.raises(ValueError, match=r"^out overlaps another argument"):
        function(z, where=room_of_mask, out=destination)
    np.testing.assert_array_equal(z, before)
    assert not room.any()


def test_keepdims_that_is_no_bool():
    for value in ("yes", None, 2.0, [True]):
        with pytest.raises(TypeError, match=r"^keepdims must be True or False"):
            fastce.logsumexp([1.0, 2.0], keepdims=value)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NAMES)
def test_classes_in_reverse_have_the_same_bits_in_every_way_to_call(name, dtype, isa, rng):
    function = getattr(fastce, name)
    z = (rng.normal(size=(50, 100)) * 3).astype(dtype)[:, ::-1]
    expected = function(z)
    np.testing.assert_array_equal(function(z, axis=(-1,)), expected)
    np.testing.assert_array_equal(function(z, where=True), expected)
    if name != "logsumexp":
        in_place = z[:, ::-1].copy()[:, ::-1]
        np.testing.assert_array_equal(function(in_place, out=in_place), expected)


def test_no_log_probability_is_negative_zero():
    log_prob = fastce.token_log_probs(np.array([[1000.0, 0.0]]), [0]).log_prob
    assert log_prob[0] == 0
    assert not np.signbit(log_prob[0])
