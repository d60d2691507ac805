"""Labels and probabilities: which are accepted, which are refused, and which are not checked."""

from __future__ import annotations

import numpy as np
import pytest
from batches import on_grid, probabilities
from cases import INTEGERS, LOSSES, SIGMOID, SOFTMAX, small_batch
from refusals import CLASSES, ROWS, refuse
from sizes import SIZES

import fastce

INF, NAN = np.inf, np.nan
BLOCK = SIZES["block rows"]


@pytest.mark.parametrize("bad", [-0.25, -6e-8, NAN, INF, -INF])
@pytest.mark.parametrize(
    ("dtype", "target_dtype"),
    [
        (np.float32, np.float32),
        (np.float32, np.float64),
        (np.float64, np.float64),
        (np.float16, np.float16),
        (np.float64, np.float32),
    ],
)
@pytest.mark.parametrize("layout", ["rows", "class-major", "every second row"])
def test_a_softmax_target_that_is_no_probability(bad, dtype, target_dtype, layout, rng):
    """The error names the position, and nothing is written. Sums are not checked."""
    z = on_grid(rng, (71, 13)).astype(dtype)
    q = probabilities(rng, z, -1).astype(target_dtype)
    if layout == "class-major":
        q = np.asfortranarray(q)
    elif layout == "every second row":
        q = np.repeat(q, 2, axis=0)[::2]
    loss = fastce.SoftmaxCrossEntropy()
    loss(z, 3 * q)
    q[57, 4] = bad
    out = np.full_like(z, 12345)
    for call in (
        lambda: loss(z, q),
        lambda: loss.value_and_grad(z, q, out=out),
        lambda: loss.value_and_grad(z, q, out=out, sample_weight=np.ones(71)),
    ):
        with pytest.raises(ValueError, match=r"target .*at least 0.*57, 4"):
            call()
    assert (out == 12345).all()


@pytest.mark.parametrize("size", [1, 40_000])
def test_the_first_and_the_last_probability_are_looked_at(size, rng):
    z = np.zeros((size, 5), np.float32)
    q = np.full_like(z, 0.2)
    for at in ((0, 0), (size - 1, 4), (size // 2, 3)):
        bad = q.copy()
        bad[at] = -1
        with pytest.raises(ValueError, match=str(at[0])):
            fastce.SoftmaxCrossEntropy()(z, bad)


def test_a_negative_zero_is_a_probability():
    q = np.array([[-0.0, 1.0]])
    z = np.zeros((1, 2))
    assert fastce.SoftmaxCrossEntropy()(z, q) == fastce.SoftmaxCrossEntropy()(z, [1])


def test_probabilities_of_weight_0_are_not_looked_at(rng):
    z = on_grid(rng, (9, 4))
    q = probabilities(rng, z, -1)
    weight = np.ones(9)
    weight[3] = 0
    clean = fastce.SoftmaxCrossEntropy().value_and_grad(z, q, sample_weight=weight)
    for bad in (NAN, -1, INF):
        q[3, 2] = bad
        value, grad = fastce.SoftmaxCrossEntropy().value_and_grad(z, q, sample_weight=weight)
        assert value == clean[0]
        np.testing.assert_array_equal(grad, clean[1])


@pytest.mark.parametrize("dtype", [bool, np.int8, np.uint8, np.int32, np.int64, np.uint64])
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_a_one_hot_target(dtype, axis, rng):
    """One-hot rows are probabilities of 0 and 1, and the loss is that of the labels."""
    z = on_grid(rng, (6, 6, 6))
    y = rng.integers(6, size=(6, 6))
    q = np.moveaxis(np.eye(6, dtype=dtype)[y], -1, axis)
    loss = fastce.SoftmaxCrossEntropy(axis=axis, reduction="none")
    for a, b in zip(loss.value_and_grad(z, q), loss.value_and_grad(z, y), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-14, atol=1e-16)


def test_negative_integers_are_no_probabilities():
    with pytest.raises(ValueError, match=r"at least 0.*-1.*\(1, 0\)"):
        fastce.SoftmaxCrossEntropy()(np.zeros((2, 2)), [[0, 1], [-1, 2]])


@pytest.mark.parametrize(
    ("shape", "labels", "error", "message"),
    [
        ((4, 3), np.zeros((4, 1), int), ValueError, r"\(4, 1\).*drop the axis"),
        ((4,), np.zeros(5, int), ValueError, r"\(rows, classes\)"),
        ((2, 3, 4, 5), np.zeros((2, 4, 5), int), ValueError, "axis=1"),
        ((4, 0), np.zeros(4, int), IndexError, "there are no classes"),
        ((4, 3), np.zeros((4, 4), int), ValueError, r"\(4, 4\).*\(4, 3\)"),
        *[
            ((4, 3), np.zeros(4).astype(dtype), TypeError, "integer")
            for dtype in (bool, np.float32, np.float64, np.complex64, object, "U1")
        ],
    ],
    ids=str,
)
@pytest.mark.parametrize("loss", SOFTMAX)
def test_labels_that_do_not_fit(loss, shape, labels, error, message):
    refuse(error, message, loss, np.zeros(shape, np.float32), labels)


@pytest.mark.parametrize("dtype", [bool, np.float32])
def test_soft_targets_that_do_not_fit(dtype):
    message = r"\(4, 4\) does not fit logits of shape \(4, 3\): .*or one-hot of shape \(4, 3\)"
    with pytest.raises(ValueError, match=message):
        fastce.SoftmaxCrossEntropy()(np.zeros((4, 3)), np.zeros((4, 4), dtype))


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("ignore_index", [-100, -1, 7])
def test_a_bad_label_names_ignore_index(loss, ignore_index):
    y = np.array([0, 255, 1], np.uint8)
    for z in (np.zeros((3, 4), np.float32), np.zeros((3, 8), np.float32)[:, ::2]):
        with pytest.raises(IndexError, match=rf"255 at position 1.*ignore_index is {ignore_index}"):
            getattr(fastce, loss)(ignore_index=ignore_index)(z, y)


@pytest.mark.parametrize("loss", SIGMOID)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("unlabelled", [255.0, NAN, -1.0, INF])
def test_elements_that_do_not_count_are_not_looked_at(loss, dtype, unlabelled, isa, rng):
    """In segmentation, 255 or NaN often means "no label". Logits there may be anything, too."""
    z = on_grid(rng, (40, 133)).astype(dtype)
    y = rng.integers(2, size=z.shape).astype(dtype)
    left_out = rng.random(z.shape) < 0.3
    marked = np.where(left_out, unlabelled, y).astype(dtype)
    spoilt = np.where(left_out, rng.choice([NAN, INF, -INF], size=z.shape), z).astype(dtype)
    mask, weight = {"where": ~left_out}, {"sample_weight": (~left_out).astype(dtype)}
    for options in ({"gamma": 1.5} if loss == "SigmoidFocalLoss" else {"label_smoothing": 0.1}, {}):
        made = getattr(fastce, loss)(**options)
        for call in (mask, weight, mask | weight):
            clean = made.value_grad_hess(z, y, **call)
            out = np.empty_like(z), np.empty_like(z)
            for found in (
                made.value_grad_hess(z, marked, **call),
                made.value_grad_hess(spoilt, marked, **call),
                made.value_grad_hess(spoilt, marked, out=out, **call),
            ):
                for a, b in zip(found, clean, strict=True):
                    np.testing.assert_array_equal(a, b)
            clean = made.value_and_grad(z, y, **call)
            for found in (
                made.value_and_grad(spoilt, marked, **call),
                made.value_and_grad(spoilt, marked, out=out[0], **call),
            ):
                for a, b in zip(found, clean, strict=True):
                    np.testing.assert_array_equal(a, b)
    for at in (np.argwhere(~left_out)[5], np.argwhere(~left_out)[-1]):
        bad = marked.copy()
        bad[*at] = unlabelled
        with pytest.raises(ValueError, match=rf"{at[0]}, {at[1]}"):
            made.value_and_grad(z, bad, where=~left_out, out=out[0])


@pytest.mark.parametrize("loss", SOFTMAX)
def test_a_mask_of_samples_is_pointed_to_sample_weight(loss):
    with pytest.raises(ValueError, match=r"where .*sample_weight or ignore_index"):
        getattr(fastce, loss)()(np.zeros((4, 3)), np.zeros(4, int), where=np.ones(4, bool))


# Labels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_of_every_integer_type(dtype, isa, rng):
    classes = {"int8": 120, "uint8": 250}.get(dtype, 300)
    z = on_grid(rng, (BLOCK + 1, classes)).astype(np.float32)
    y = rng.integers(classes, size=BLOCK + 1)
    loss = fastce.SoftmaxCrossEntropy(reduction="none")
    expected = loss.value_and_grad(z, y)
    for typed in (y.astype(dtype), y.astype(np.dtype(dtype).newbyteorder("S"))):
        for a, b in zip(loss.value_and_grad(z, typed), expected, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_a_label_with_a_sign_does_not_wrap(dtype):
    """−100 is ignored, even if 156 or 65436 is a class."""
    classes = 200 if dtype == "int8" else 65_500
    y = np.array([3, -100, 7], dtype)
    z = np.zeros((3, classes), np.float32)
    value, grad = fastce.SoftmaxCrossEntropy(reduction="none").value_and_grad(z, y)
    np.testing.assert_array_equal(value == 0, [False, True, False])
    assert not grad[1].any()


def test_ignore_index_inside_does_not_excuse_other_labels():
    with pytest.raises(IndexError, match="9"):
        fastce.SoftmaxCrossEntropy(ignore_index=1)(np.zeros((3, 3)), [0, 1, 9])


@pytest.mark.parametrize("axis", [1, -1])
def test_the_position_of_a_bad_label_in_an_array(axis):
    shape = (4, 13, 5) if axis == 1 else (4, 5, 13)
    y = np.zeros((4, 5), int)
    y[2, 3] = 77
    with pytest.raises(IndexError, match=r"2, 3.*77|77.*2, 3"):
        fastce.SoftmaxCrossEntropy(axis=axis)(np.zeros(shape, np.float32), y)


def test_focal_takes_no_probabilities():
    with pytest.raises(TypeError, match=r"integer class labels of shape \(4,\), got float64"):
        fastce.SoftmaxFocalLoss()(np.zeros((4, 3)), np.full((4, 3), 1 / 3))


def limits(dtype):
    info = np.iinfo(dtype)
    near = [info.min, info.min + 1, info.max - 1, info.max, CLASSES, CLASSES + 1]
    near += [-1, -2] if info.min < 0 else []
    near += [-99, 71, 2**31, -(2**31) - 1] if dtype == "int64" else []
    near += [2**63 - 1, 2**63, 2**64 - 100, 2**64 - 99] if dtype == "uint64" else []
    return sorted({x for x in near if x not in range(CLASSES)})


@pytest.mark.parametrize(
    ("dtype", "label"), [(d, x) for d in INTEGERS for x in limits(d)], ids=lambda x: str(x)
)
@pytest.mark.parametrize("loss", SOFTMAX)
def test_labels_at_the_limits(loss, dtype, label):
    z, y = small_batch(loss)
    for order in ("=", "S"):
        bad = y.astype(np.dtype(dtype).newbyteorder(order))
        bad[4] = label
        match = rf"label {label}\b.*\b4\b.*\b3 classes"
        refuse(IndexError, match, loss, z, bad)
        before = z.copy()
        with pytest.raises(IndexError, match=match):
            getattr(fastce, loss)().value_and_grad(z, bad, out=z)
        np.testing.assert_array_equal(z, before)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("loss", SOFTMAX)
def test_ignore_index_at_the_limits(loss, dtype):
    """Any label of any type can be ignore_index, and no other number is ignored."""
    z, y = small_batch(loss)
    info = np.iinfo(dtype)
    for ignored in {info.min, min(info.max, 2**63 - 1)}:
        some = y.astype(dtype)
        some[[1, 4]] = ignored
        made = getattr(fastce, loss)(ignore_index=int(ignored), reduction="none")
        value, grad = made.value_and_grad(z, some)
        kept = some != ignored
        assert (value[~kept] == 0).all()
        assert not grad[~kept].any()
        alone, _ = made.value_and_grad(z[kept], some[kept])
        np.testing.assert_array_equal(value[kept], alone)
    if info.max > 2**63:
        some = y.astype(dtype)
        some[1] = 2**64 - 1
        with pytest.raises(IndexError, match=str(2**64 - 1)):
            getattr(fastce, loss)(ignore_index=-1)(z, some)


@pytest.mark.parametrize("loss", SOFTMAX)
@pytest.mark.parametrize("position", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 4094, 4095])
def test_the_first_bad_label_is_named(loss, position):
    y = np.zeros(4096, np.int32)
    y[position:] = 5
    with pytest.raises(IndexError, match=rf"label 5 at position {position},"):
        getattr(fastce, loss)()(np.zeros((4096, 3), np.float32), y)


@pytest.mark.parametrize("loss", SOFTMAX)
def test_a_bad_label_of_a_sample_that_does_not_count_is_an_error_too(loss):
    z, y = small_batch(loss)
    y[2] = 3
    weight = np.ones(ROWS)
    weight[2] = 0
    refuse(IndexError, "label 3", loss, z, y, sample_weight=weight)


# Both families ------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", SIGMOID)
@pytest.mark.parametrize("bad", [1.5, -0.25, NAN, INF])
def test_a_sigmoid_target_that_is_no_probability(loss, bad):
    z = np.zeros((4, 31), np.float32)
    y = np.zeros((4, 31))
    y[2, 17] = bad
    out = np.full_like(z, 12345)
    with pytest.raises(ValueError, match=r"2, 17") as error:
        getattr(fastce, loss)().value_and_grad(z, y, out=out)
    assert str(bad) in str(error.value)
    assert (out == 12345).all()
    with pytest.raises(ValueError, match="2"):
        getattr(fastce, loss)()(z, np.full(z.shape, 2))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", [(5,), (6, 2), (7, 3), (6, 3, 1), ()])
def test_a_target_of_the_wrong_shape(loss, shape):
    z, y = small_batch(loss)
    with pytest.raises(ValueError, match=r"\(6, 3\)") as error:
        getattr(fastce, loss)()(z, np.zeros(shape, y.dtype))
    assert str(shape) in str(error.value)
