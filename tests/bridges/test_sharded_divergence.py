"""The divergence of rows whose classes, and their teacher's, are split over shards."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from distillation import assert_eight_ulp, both
from processes import output_of
from sharding import evaluate, merged_in_every_order, splits, summaries

import fastce
from fastce import reference, sharded

INF = np.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("noise", [1e-1, 1e-3, 1e-6])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_eight_ulp_where_both_are_nearly_equal(classes, noise, offset, dtype, isa, rng):
    """The bound is that of whole rows."""
    noise = max(noise, 1e-3) if offset else noise  # the student's logits have no more digits
    student, teacher = both(noise, (3, classes), dtype, rng, offset)
    for temperature in (1.0, 2.0):
        kl = fastce.SoftmaxKLDivergence(temperature=temperature, reduction="none")
        for split in splits(classes).values():
            found = evaluate(kl, student, teacher, split)
            assert_eight_ulp(kl, student, teacher, offset=offset, found=found)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-4, 1.0, 30.0])
def test_never_negative(noise, dtype, isa, rng):
    student, teacher = both(noise, (200, 24), dtype, rng)
    loss, grad = evaluate(
        fastce.SoftmaxKLDivergence(reduction="none"), student, teacher, [0, 5, 6, 24]
    )
    assert np.all(loss >= 0)
    if noise == 0:
        assert not loss.any()
        assert not grad.any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("margin", [3.0, 30.0, 600.0, 60_000.0])
def test_a_student_that_is_sure_of_a_class_in_doubt(margin, dtype, isa):
    """The teacher is in doubt about that class: its digits do not depend on the margin."""
    teacher = np.array([[0, 0, -1, -3]], dtype)
    for place, temperature in itertools.product(range(4), (1.0, 3.0)):
        student = np.array([[0, -1, 1, 0]], dtype)
        student[0, place] = margin
        kl = fastce.SoftmaxKLDivergence(temperature=temperature, reduction="none")
        wide = [x.astype(np.longdouble) for x in (student, teacher)]
        true = reference.softmax_kl_divergence(*wide, temperature=temperature, reduction="none")[1]
        for split in ([0, 1, 4], [0, 2, 4], [0, 1, 2, 3, 4], [0, 3, 4]):
            _, grad = evaluate(kl, student, teacher, split)
            error = np.abs(grad[0, place] / true[0, place] - 1)
            assert error <= 8 * np.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("margin", [20.3, 27.7, 60.1])
def test_a_confident_pair_keeps_its_tail(margin, dtype, isa):
    """All but a tail lies in one class, whose gradient is what the other shards leave."""
    student, teacher = np.array([[margin, 0, -1]], dtype), np.array([[margin + 1.3, 0, -1]], dtype)
    kl = fastce.SoftmaxKLDivergence(reduction="none")
    loss, grad = evaluate(kl, student, teacher, [0, 1, 2, 3])
    wide = [x.astype(np.longdouble) for x in (student, teacher)]
    truth = reference.softmax_kl_divergence(*wide, reduction="none")
    np.testing.assert_allclose(grad, truth[1].astype(float), rtol=16 * np.finfo(dtype).eps)
    np.testing.assert_allclose(loss, truth[0].astype(float), rtol=16 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_edges_are_those_of_whole_rows(dtype, isa, rng):
    student, teacher = 4 * rng.normal(size=(2, 16, 6)).astype(dtype)
    student[0, 3:] = teacher[0, 3:] = -INF  # a whole shard that both exclude
    student[1, 1] = -INF  # a class that the teacher allows
    teacher[2, 1] = -INF  # and the other way round
    teacher[3, :3] = -INF  # a shard that only the teacher excludes
    student[4, :3] = -INF  # one that only the student excludes: infinite
    teacher[5, :3] = student[5, 3:] = -INF  # neither allows what the other allows
    student[6], teacher[7] = -INF, -INF  # no softmax
    student[8, 5], teacher[9, 0] = np.nan, np.nan
    student[10, 0], teacher[11, 5] = INF, INF
    student[12, 0], teacher[12, 5] = 1e15, 1e15
    student[13], teacher[13] = [2000, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 2000]
    student[14], teacher[14] = [0, 0, 0, 0, 0, -900], [0, -800, 0, 0, 0, 0]
    kl = fastce.SoftmaxKLDivergence(reduction="none")
    expected, expected_grad = kl.value_and_grad(student, teacher)
    for split in ([0, 3, 6], [0, 1, 2, 3, 4, 5, 6], [0, 5, 6], [0, 6]):
        loss, grad = evaluate(kl, student, teacher, split)
        np.testing.assert_allclose(loss.astype(dtype), expected, rtol=30 * np.finfo(dtype).eps)
        np.testing.assert_allclose(
            grad, expected_grad, rtol=60 * np.finfo(dtype).eps, atol=np.finfo(dtype).eps
        )


def test_every_order_of_merging_gives_the_same(rng):
    student, teacher = both(0.1, (50, 12), np.float64, rng)
    student[:5], teacher[5:10] = rng.normal(scale=40, size=(2, 5, 12))
    student[10:20, :4] -= 80
    student[20, :2], teacher[20, :2], teacher[21, :3] = -INF, -INF, -INF
    kl = fastce.SoftmaxKLDivergence()
    (whole,) = summaries(kl, student, teacher, [0, 12])
    for merged in merged_in_every_order(summaries(kl, student, teacher, [0, 2, 3, 7, 7, 12])):
        np.testing.assert_array_equal(merged.teacher_maximum, whole.teacher_maximum)
        np.testing.assert_array_equal(merged.student_maximum, whole.student_maximum)
        for name in ("teacher_sum", "student_sum", "divergence"):
            a, b = getattr(merged, name), getattr(whole, name)
            np.testing.assert_allclose(a, b, rtol=1e-13, err_msg=name)
        np.testing.assert_allclose(merged.log_ratio, whole.log_ratio, rtol=1e-13, atol=1e-15)


def test_other_types_and_layouts(rng):
    kl = fastce.SoftmaxKLDivergence(temperature=3.0)
    student, teacher = both(1.0, (40, 300), np.float32, rng)
    part = sharded.summarise(student, teacher, 0, kl, classes=300)
    grad = sharded.gradient(student, teacher, 0, part, part, kl, classes=300)
    for swapped in (student.astype(">f4"), np.asfortranarray(student)):
        again = sharded.gradient(swapped, teacher, 0, part, part, kl, classes=300)
        np.testing.assert_array_equal(again, grad)


def test_errors(rng):
    kl, ce = fastce.SoftmaxKLDivergence(), fastce.SoftmaxCrossEntropy()
    student, teacher = both(1.0, (2, 3), np.float64, rng)
    part = sharded.summarise(student, teacher, 0, kl, classes=6)
    of_labels = sharded.summarise(student, [0, 1], 0, ce, classes=6)
    with pytest.raises(TypeError, match="target must be a teacher's logits"):
        sharded.summarise(student, [0, 1], 0, kl, classes=6)
    with pytest.raises(ValueError, match=r"target of shape \(2, 2\) does not fit"):
        sharded.summarise(student, teacher[:, :2], 0, kl, classes=6)
    with pytest.raises(ValueError, match="cannot be merged"):
        sharded.merge(part, of_labels)
    with pytest.raises(ValueError, match="summary must have 7 fields"):
        sharded.finish(of_labels, teacher, kl, classes=6)
    with pytest.raises(ValueError, match="summary must have 3, 5 or 6 fields"):
        sharded.finish(part, [0, 1], ce, classes=6)
    with pytest.raises(ValueError, match=r"\(2,\) does not fit a target of shape \(1,\)"):
        sharded.finish(part, teacher[:1], kl, classes=6)
    with pytest.raises(ValueError, match="out overlaps"):
        sharded.gradient(student, teacher, 0, part, part, kl, classes=6, out=teacher)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_missing_logit_makes_the_gradient_of_excluded_classes_nan_too(dtype, isa):
    nan, out = np.nan, -INF
    student = np.array([[0, nan, out, 1], [0, 2, out, 1], [nan, out, 1, 2], [0, 1, out, 2]], dtype)
    teacher = np.array([[0, 1, out, 1], [0, nan, out, 0], [0, out, 1, 2], [1, 2, out, 0]], dtype)
    kl = fastce.SoftmaxKLDivergence(reduction="none")
    for split in ([0, 4], [0, 2, 4], [0, 1, 2, 3, 4]):
        loss, grad = evaluate(kl, student, teacher, split)
        assert np.isnan(loss[:3]).all()
        assert np.isnan(grad[:3]).all()
        assert np.isfinite(loss[3])
        assert grad[3, 2] == 0


@pytest.mark.parametrize("loss", [fastce.SoftmaxCrossEntropy, fastce.SoftmaxKLDivergence])
def test_classes_that_are_no_whole_number_of_items_apart(loss, rng):
    """As the fields of packed records may be."""
    fields = np.zeros((3, 8), [("padding", "i1"), ("x", "f4", (64,))])["x"]
    z, grad, t = (x.T for x in fields)
    z[...], t[...] = rng.normal(size=(2, 64, 8))
    target = t if loss is fastce.SoftmaxKLDivergence else rng.integers(8, size=64)
    made = loss(reduction="none")
    expected = made.value_and_grad(z, target)
    summary = sharded.summarise(z, target, 0, made, classes=8)
    sharded.gradient(z, target, 0, summary, summary, made, classes=8, out=grad)
    np.testing.assert_allclose(grad, expected[1], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("offset", [0.0, 128.0, 1024.0])
@pytest.mark.parametrize("temperature", [0.07, 0.3, 3.0])
def test_dividing_by_a_temperature_costs_no_digits_of_far_logits(temperature, offset, isa):
    teacher = np.array([[3.0, 1, -2, 0.5], [0, 0.25, 0.5, 0.125]]) + offset
    student = np.array([[2.0, 1.5, -1, 0.25], [0.5, 0, 0.375, 0.5]]) + offset
    kl = fastce.SoftmaxKLDivergence(temperature=temperature, reduction="none")
    wide = [x.astype(np.longdouble) for x in (student, teacher)]
    options = {"temperature": np.longdouble(temperature), "reduction": "none"}
    true = reference.softmax_kl_divergence(*wide, **options)[:2]
    for split in splits(4).values():
        for a, b in zip(evaluate(kl, student, teacher, split), true, strict=True):
            np.testing.assert_allclose(a, b.astype(float), rtol=32 * np.finfo(float).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("temperature", "size"), [(1.0, 1e6), (1.0, 1e20), (1.0, 1e36), (7.0, 1e6), (7.0, 1e12)]
)
def test_logits_of_two_very_different_sizes(temperature, size, dtype, isa, rng):
    teacher = (rng.integers(-64, 64, (6, 38)) / 16).astype(dtype)
    student = np.where(rng.random(teacher.shape) < 0.4, size, teacher).astype(dtype)
    kl = fastce.SoftmaxKLDivergence(temperature=temperature, reduction="none")
    wide = [x.astype(np.longdouble) for x in (student, teacher)]
    options = {"temperature": temperature, "reduction": "none"}
    true = reference.softmax_kl_divergence(*wide, **options)[:2]
    for split in ([0, 38], [0, 1, 20, 38]):
        for a, b in zip(evaluate(kl, student, teacher, split), true, strict=True):
            np.testing.assert_allclose(a, b.astype(float), rtol=1e-5, atol=1e-9)


def test_maxima_over_a_low_temperature_are_finite():
    lowest = np.finfo(float).min
    student, teacher = np.array([[1.5, 0]]), np.array([[lowest, 0]])
    kl = fastce.SoftmaxKLDivergence(temperature=0.5, reduction="none")
    expected = kl.value_and_grad(student, teacher)
    for a, b in zip(evaluate(kl, student, teacher, [0, 1, 2]), expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("margin", [700.0, 720.0, 744.0, 760.0])
def test_focal_loss_of_shards_far_apart(margin, gamma):
    """What is left for the other shard may be a subnormal number."""
    z = np.array([[margin, 0, -1.5, 0.25]], np.float32)
    loss = fastce.SoftmaxFocalLoss(gamma=gamma, reduction="none")
    for label in range(4):
        expected = loss.value_and_grad(z, [label])
        for a, b in zip(evaluate(loss, z, np.array([label]), [0, 1, 4]), expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-45)


def test_smoothing_weights_of_shards_are_not_rounded_as_the_caller_rounds():
    """They are kept for later calls."""
    code = """
        import ctypes
        import numpy as np
        import fastce
        from fastce import sharded
        rng = np.random.default_rng(0)
        z, y, weight = rng.normal(size=(5, 70)), np.arange(5), rng.uniform(0.1, 1, 70)
        options = {"label_smoothing": 0.1, "weight": weight, "reduction": "none"}
        expected = fastce.SoftmaxCrossEntropy(**options)(z, y)
        loss = fastce.SoftmaxCrossEntropy(**options)
        libm = ctypes.CDLL(None)
        upward = {"x86_64": 0x800, "aarch64": 0x400000}[__import__("platform").machine()]
        assert libm.fesetround(upward) == 0
        part = sharded.summarise(z, y, 0, loss, classes=70)
        sharded.gradient(z, y, 0, part, part, loss, classes=70)
        libm.fesetround(0)
        print((loss(z, y) == expected).all())
    """
    assert output_of(code) == ["True"]
