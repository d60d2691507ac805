"""KL divergence of two arrays of logits: accuracy if both are nearly equal, and edge cases."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from bounds import ulps, ulps_allowed
from cases import DTYPES
from distillation import assert_eight_ulp, both
from sizes import SIZES

import fastce
from fastce import information, reference

INF = np.inf
CLASSES = (2, 10, 17, 1000)


# Accuracy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("factor", [1.0, 1e-4, 2.0**-90, 2.0**90])
@pytest.mark.parametrize("top", [-28.0, 60.0, 86.0, 88.0])
@pytest.mark.parametrize("classes", [11, 200])
def test_factors_of_rows_at_the_ends_of_exps_range(classes, top, factor, dtype, rows, isa, rng):
    """The factor, divided by the sum of the exponentials, need not be a normal number."""
    teacher = rng.integers(-64, 64, classes) / 16
    student = rng.integers(-64, 64, classes) / 16
    student[1] = top
    if top < 0:  # both sums are small
        student, teacher = student + (top - student.max()), teacher + (top - teacher.max())
    student, teacher = (np.tile(x.astype(dtype), (rows, 1)) for x in (student, teacher))
    given = {"reduction": "none", "grad_output": np.full(rows, factor)}
    _, grad = fastce.softmax_kl_divergence(student, teacher, **given)
    wide = [x.astype(np.longdouble) for x in (student, teacher)]
    _, true, _ = reference.softmax_kl_divergence(*wide, **given)
    p, info = reference.softmax(wide[1]), np.finfo(dtype)
    typical = np.sqrt(np.sum(true**2 / p, axis=1, keepdims=True))  # of log q - log p, times factor
    bound = 16 * info.eps * (np.abs(true) + p * typical) + info.tiny * max(factor, 1.0)
    assert np.all(np.abs(grad - true) <= bound)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("classes", CLASSES)
def test_eight_ulp_where_both_are_nearly_equal(classes, noise, offset, dtype, isa, rng):
    if offset:
        noise = max(noise, 1e-3)  # the student's logits have no more digits
    student, teacher = both(noise, (3, classes), dtype, rng, offset)
    for temperature in (1.0, 2.0):
        kl = fastce.SoftmaxKLDivergence(temperature=temperature, reduction="none")
        assert_eight_ulp(kl, student, teacher, offset=offset)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_eight_ulp_of_a_vocabulary(dtype, isa, rng):
    for noise in (1e-1, 1e-6):
        student, teacher = both(noise, (2, 32_000), dtype, rng)
        assert_eight_ulp(fastce.SoftmaxKLDivergence(reduction="none"), student, teacher)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [20.0, 70.0, 300.0])
@pytest.mark.parametrize("classes", [10, 33, 1000])
def test_large_losses_of_logits_far_apart(classes, offset, dtype, isa, rng):
    """The mean difference cancels the logarithm of the ratio of sums."""
    if dtype == np.float32:
        offset = min(offset, 80.0)  # the range of exp
    student, teacher = both(1.6, (20, classes), dtype, rng, offset)
    for temperature in (1.0, 2.0):
        kl = fastce.SoftmaxKLDivergence(temperature=temperature, reduction="none")
        for layout in "CF":
            logits = (np.asarray(x, order=layout) for x in (student, teacher))
            assert_eight_ulp(kl, *logits, offset=offset)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lead", [0.0, 10.0, 25.0])
def test_a_long_row_whose_end_differs_from_its_beginning(lead, dtype, isa, rng):
    """The center of its first part does not suit the whole; the last class may dominate it."""
    student, teacher = both(1e-3, (2, 20_000), dtype, rng)
    student[:, :9000] += 1
    student[:, -1] += dtype(lead)
    teacher[:, -1] += dtype(lead)
    assert_eight_ulp(fastce.SoftmaxKLDivergence(reduction="none"), student, teacher)


def sizes_of_blocks(layout):
    """Rows and classes on both sides of every threshold."""
    rows, elements = SIZES["block rows"], SIZES["divergence elements"]
    for classes in (elements // rows, elements // SIZES["divergence rows"]):
        yield from ((rows + 1, classes), (rows + 1, classes + 1))
    if layout == "C":
        few, part = SIZES["divergence classes"], SIZES["divergence part"]
        yield from ((rows + 1, few), (rows + 1, few + 1), (3, part), (3, part + 1))
        yield from ((2, elements), (2, elements + 1), (2, elements + part + 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 1.5, 10.0])
@pytest.mark.parametrize("layout", ["C", "F"])
def test_both_sides_of_every_threshold(layout, offset, dtype, isa, rng):
    """The offset is much larger than the differences; one row is dominated by a class."""
    kl = fastce.SoftmaxKLDivergence(reduction="none")
    for rows, classes in sizes_of_blocks(layout):
        student, teacher = both(1e-2, (rows, classes), dtype, rng, offset)
        teacher[0, 0] = 30
        student[0, 0] = 30 + offset
        student, teacher = (np.asarray(x, order=layout) for x in (student, teacher))
        assert_eight_ulp(kl, student, teacher)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-4, 1.0, 30.0])
def test_never_negative(noise, dtype, isa, rng):
    for classes in (1, 2, 7, 33, 300):
        student, teacher = both(noise, (50, classes), DTYPES[dtype], rng)
        loss = fastce.SoftmaxKLDivergence(reduction="none")(student, teacher)
        assert np.all(loss >= 0)
        if noise == 0 or classes == 1:
            assert not loss.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_confident_pair_keeps_its_tail(dtype, isa):
    """Both give class 0 all but 1e-9: its gradient is what class 1 leaves, with all digits."""
    student, teacher = np.array([[20.0, 0.0]], dtype), np.array([[21.0, 0.0]], dtype)
    kl = fastce.SoftmaxKLDivergence(reduction="none")
    wide = [x.astype(np.longdouble) for x in (student, teacher)]
    truth = reference.softmax_kl_divergence(*wide, reduction="none")
    for found, exact in zip(kl.value_and_grad(student, teacher), truth[:2], strict=True):
        assert ulps(found, exact, dtype) <= ulps_allowed(4, exact, dtype)


# Edges --------------------------------------------------------------------------------------------


@pytest.fixture
def divergence(evaluate):
    """`divergence(student, teacher, **call)` gives (loss, grad, hess) of each row."""
    return lambda student, teacher, **call: evaluate(
        "SoftmaxKLDivergence", student, teacher, {"reduction": "none"}, **call
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("padding", [0, 40])
def test_minus_infinity(divergence, dtype, padding):
    rest = [-3.0] * padding
    student = np.array([[1, -INF, 0, *rest], [1, -INF, 0, *rest], [1, 2, 0, *rest]], dtype)
    teacher = np.array([[0, -INF, 1, *rest], [0, 2, 1, *rest], [0, -INF, 1, *rest]], dtype)
    loss, grad, _ = divergence(student, teacher)
    without = [np.delete(x, 1, axis=1) for x in (student, teacher)]
    fewer = divergence(*without)
    np.testing.assert_allclose(loss[0], fewer[0][0], rtol=1e-6)  # a class that both exclude
    np.testing.assert_allclose(  # where q = p, a rounding error is left
        np.delete(grad, 1, axis=1)[0], fewer[1][0], rtol=1e-5, atol=np.finfo(dtype).eps * 1e-2
    )
    assert grad[0, 1] == 0
    assert loss[1] == INF  # one that the teacher allows
    assert np.isfinite(grad[1]).all()
    q = reference.softmax(student.astype(np.float64))
    np.testing.assert_allclose(grad[2, 1], q[2, 1], rtol=1e-6)  # and one that it excludes
    p = reference.softmax(teacher.astype(np.float64))
    with np.errstate(all="ignore"):
        terms = np.where(p[2] > 0, p[2] * np.log(p[2] / q[2]), 0)
    np.testing.assert_allclose(loss[2], terms.sum(), rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bad", ["nan", "inf", "nothing"])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("classes", [3, 50])
def test_a_row_without_a_softmax_is_nan_alone(divergence, classes, which, bad, dtype, rng):
    pair = [rng.normal(size=(5, classes)).astype(dtype) for _ in range(2)]
    before = divergence(*[x.copy() for x in pair])
    pair[which][2, 1] = {"nan": np.nan, "inf": INF, "nothing": -INF}[bad]
    if bad == "nothing":
        pair[which][2] = -INF
    for i, (after, x) in enumerate(zip(divergence(*pair), before, strict=True)):
        assert np.isnan(after[2]).all(), i
        np.testing.assert_array_equal(np.delete(after, 2, 0), np.delete(x, 2, 0))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [3, 300])
def test_certainty_does_not_make_up_for_a_missing_softmax(divergence, classes, dtype):
    sure, nothing = np.zeros((1, classes), dtype), np.full((1, classes), -INF, dtype)
    sure[0, 0] = 30
    for pair in ((sure, nothing), (nothing, sure), (nothing, nothing)):
        for result in divergence(*pair):
            assert np.isnan(result).all()


def test_a_sample_that_does_not_count_may_hold_anything(divergence, rng):
    student, teacher = rng.normal(size=(2, 4, 6)).astype(np.float32)
    student[1], teacher[1] = np.nan, INF
    loss, grad, hess = divergence(student, teacher, sample_weight=np.array([1.0, 0.0, 2.0, 1.0]))
    assert loss[1] == 0
    assert not grad[1].any()
    assert not hess[1].any()
    assert np.isfinite(loss).all()


def test_masked_numbers_are_not_looked_at(divergence, rng):
    student, teacher = rng.normal(size=(2, 4, 20)).astype(np.float32)
    kept = np.arange(20) % 3 > 0
    fewer = divergence(student[:, kept], teacher[:, kept])
    student[:, ~kept], teacher[:, ~kept] = np.nan, INF
    for a, b in zip(divergence(student, teacher, where=kept), fewer, strict=True):
        np.testing.assert_allclose(a[:, kept] if a.ndim == 2 else a, b, rtol=3e-6)
        if a.ndim == 2:
            assert not a[:, ~kept].any()


@pytest.mark.parametrize("size", [1e4, 3e38])
def test_huge_finite_logits(divergence, size):
    student = np.array([[size, -size, 0], [0, 1, 2], [-size, size, 0]], np.float32)
    teacher = np.array([[size, 0, -size], [size, 0, 1], [size, -size, 0]], np.float32)
    loss, grad, _ = divergence(student, teacher)
    np.testing.assert_allclose(grad[0], 0, atol=1e-30)
    assert loss[0] == 0
    np.testing.assert_allclose(loss[1], 2.4076059644443806, rtol=1e-6)
    np.testing.assert_allclose(grad[2], [-1, 1, 0])
    assert float(loss[2]) in (2 * float(np.float32(size)), INF)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [3, 40, 300])
@pytest.mark.parametrize("masks", [1, 2])
def test_a_huge_negative_number_as_a_mask(masks, classes, dtype, isa, rng):
    """The student gives next to nothing to classes that the teacher allows."""
    teacher = rng.normal(size=(5, classes)).astype(dtype)
    p = reference.softmax(teacher.astype(np.longdouble))[:, :masks].sum(axis=1)
    kl = fastce.SoftmaxKLDivergence(reduction="none")
    for size in (1e10, 1e19, 1e20, 1e30, -float(np.finfo(dtype).min)):
        student = teacher.copy()
        student[:, :masks] = -size
        loss, grad, hess = kl.value_grad_hess(student, teacher)
        np.testing.assert_allclose(loss, p * size, rtol=1e-5 if size > 1e12 else 1e-4)
        np.testing.assert_allclose(grad[:, 0], -reference.softmax(teacher)[:, 0], rtol=1e-5)
        assert not hess[:, :masks].any()
        total = fastce.softmax_kl_divergence(student, teacher, reduction="sum")[0]
        assert total == pytest.approx(float(loss.astype(np.longdouble).sum()), rel=1e-6)
    far = np.array([[0, 0.6 * float(np.finfo(dtype).max)]], dtype)
    loss = fastce.SoftmaxKLDivergence(reduction="sum")(far, far[:, ::-1])
    assert loss == pytest.approx(float(far[0, 1]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [3, 40, 1000, 20_000])
def test_a_row_far_from_zero(classes, dtype, isa, rng):
    """Such as one in which all classes are masked, by a finite number: only differences count."""
    teacher = (rng.integers(-64, 64, (3, classes)) / 16).astype(dtype)
    level = np.zeros((3, classes), dtype)
    kl = fastce.SoftmaxKLDivergence(reduction="none")
    for pair in ((level, teacher), (teacher, level)):
        expected = kl.value_and_grad(*pair)
        for size in (1e6, 1e8, 1e9, 1e18, 1e30, float(np.finfo(dtype).max)):
            for sign in (-1, 1):
                moved = [np.full_like(x, sign * size) if x is level else x for x in pair]
                for call in ({}, {"where": np.ones(level.shape, bool)}):
                    for layout in "CF":
                        logits = (np.asarray(x, order=layout) for x in moved)
                        found = kl.value_and_grad(*logits, **call)
                        for a, b in zip(found, expected, strict=True):
                            np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("first", [-80.0, -20.0])
def test_the_first_class_does_not_decide_how_the_mean_is_rounded(first, dtype, isa, rng):
    student, teacher = (rng.integers(-48, 48, (2, 40, 6)) / 16).astype(dtype)
    student[:, 0] = first
    kl = fastce.SoftmaxKLDivergence(reduction="none")
    for layout in "CF":
        assert_eight_ulp(kl, *(np.asarray(x, order=layout) for x in (student, teacher)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("top", [-29.0, -25.0, -10.0, 0.0])
def test_tails_of_small_exponentials(top, dtype, isa):
    """As of a teacher that gives log-probabilities: products must not be subnormal numbers."""
    low = -86.0 if dtype == np.float32 else -706.0
    teacher = np.array([[top, top + 0.1, low]], dtype)
    student = teacher.copy()
    student[0, 0] += dtype(1e-3)
    student[0, 2] = np.nextafter(student[0, 2], dtype(0))
    wide = [x.astype(np.longdouble) for x in (student, teacher)]
    true = reference.softmax_kl_divergence(*wide, reduction="none")[1]
    grad = fastce.SoftmaxKLDivergence(reduction="none").value_and_grad(student, teacher)[1]
    bound = {"rtol": 32 * np.finfo(dtype).eps, "atol": float(np.finfo(dtype).tiny)}
    np.testing.assert_allclose(grad, true.astype(float), **bound)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_hessian_of_a_confident_student(dtype, isa):
    """It keeps its digits as long as the sum of the other probabilities is a normal number."""
    for top in (50.0, 80.0, 90.0) if dtype == np.float32 else (50.0, 700.0, 712.0):
        for layout in ("C", "F"):
            z = np.zeros((4, 1001), dtype, order=layout)
            z[:, 0] = top
            hess = fastce.SoftmaxKLDivergence(reduction="none").value_grad_hess(z, z)[2]
            wide = z.astype(np.longdouble)
            true = reference.softmax_kl_divergence(wide, wide, reduction="none")[2]
            tiny = np.finfo(dtype).tiny
            np.testing.assert_allclose(hess, true.astype(float), rtol=1e-5, atol=float(tiny))
            assert (hess[:, 0] > tiny).all()


@pytest.mark.parametrize("exponent", [*range(-100, -60, 10), *range(10, 90, 10), 200, 400])
def test_temperatures_of_any_size(exponent):
    """T times the distance of the logits if T is low; half its variance if T is high."""
    z, t = np.array([[[0, 1, 2]], [[0, 2, 1]]], np.float32)
    loss = fastce.SoftmaxKLDivergence(temperature=2.0**exponent)(z, t)
    assert loss == pytest.approx(2.0**exponent if exponent < 0 else 1 / 3, rel=1e-3)


# Identities ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [4, 40])
def test_cross_entropy_less_entropy(classes, isa, rng):
    student, teacher = rng.normal(scale=2, size=(2, 9, classes))
    p = fastce.softmax(teacher)
    cross_entropy = fastce.SoftmaxCrossEntropy(reduction="none")(student, p)
    loss = fastce.SoftmaxKLDivergence(reduction="none")(student, teacher)
    entropy = information.entropy(p)
    np.testing.assert_allclose(loss, cross_entropy - entropy, rtol=1e-13)


@pytest.mark.parametrize("classes", [4, 40])
def test_a_teacher_who_is_certain_is_a_label(classes, isa, rng):
    student, labels = rng.normal(scale=2, size=(9, classes)), rng.integers(classes, size=9)
    teacher = np.where(np.arange(classes) == labels[:, None], 3.0, -INF)
    results = fastce.SoftmaxKLDivergence(reduction="none").value_grad_hess(student, teacher)
    hard = fastce.SoftmaxCrossEntropy(reduction="none").value_grad_hess(student, labels)
    for a, b in zip(results, hard, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14)


def test_high_temperature_compares_logits(isa, rng):
    """T² KL tends to half the variance of the differences, over classes of equal weight."""
    student, teacher = rng.normal(size=(2, 7, 11))
    loss = fastce.SoftmaxKLDivergence(temperature=1e7, reduction="none")(student, teacher)
    np.testing.assert_allclose(loss, np.var(student - teacher, axis=1) / 2, rtol=1e-6)


# Types --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("teacher_type", DTYPES)
@pytest.mark.parametrize("student_type", DTYPES)
@pytest.mark.parametrize("classes", [5, 70])
def test_types_of_their_own(classes, student_type, teacher_type, isa, rng):
    """Nothing is rounded before both meet in the wider of the two types."""
    student = rng.normal(size=(9, classes)).astype(DTYPES[student_type])
    teacher = rng.normal(size=(9, classes)).astype(DTYPES[teacher_type])
    kl = fastce.SoftmaxKLDivergence(temperature=1.5, reduction="none")
    loss, grad = kl.value_and_grad(student, teacher)
    wide = np.float64 if "float64" in (student_type, teacher_type) else np.float32
    truth = kl.value_and_grad(student.astype(wide), teacher.astype(wide))
    assert grad.dtype == student.dtype
    assert loss.dtype == (np.float64 if student_type == "float64" else np.float32)
    np.testing.assert_array_equal(loss, truth[0].astype(loss.dtype))
    np.testing.assert_array_equal(grad, truth[1].astype(grad.dtype))


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("teacher", "error", "match"),
    [
        (np.zeros(4, int), TypeError, "target must be a teacher's logits of float16.*got int64"),
        (np.zeros((4, 3), int), TypeError, "target must be a teacher's logits"),
        (np.zeros((4, 3), complex), TypeError, "target must be a teacher's logits"),
        (np.zeros((3, 4)), ValueError, r"target of shape \(3, 4\) does not fit logits of shape"),
        (np.ma.zeros((4, 3)), TypeError, "target is a masked array"),
    ],
)
def test_a_teacher_of_the_wrong_kind(teacher, error, match):
    out = np.full((4, 3), 77.0)
    with pytest.raises(error, match=match):
        fastce.SoftmaxKLDivergence().value_and_grad(np.zeros((4, 3)), teacher, out=out)
    assert (out == 77).all()


def test_the_gradient_goes_nowhere_near_the_teacher(rng):
    student, teacher = rng.normal(size=(2, 4, 3))
    with pytest.raises(ValueError, match="out overlaps"):
        fastce.SoftmaxKLDivergence().value_and_grad(student, teacher, out=teacher)


def test_lists_and_bfloat16(rng):
    kl = fastce.SoftmaxKLDivergence()
    assert kl([[0.0, 1.0]], [[1.0, 0.0]]) == kl(np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]))
    student = rng.normal(size=(3, 9)).astype(ml_dtypes.bfloat16)
    assert kl.value_and_grad(student, student[::-1])[1].dtype == ml_dtypes.bfloat16
