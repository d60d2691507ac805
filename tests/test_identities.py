"""What must hold between losses, options and batches, whatever the values."""

from __future__ import annotations

from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from batches import confident, likeliest, on_grid, some_ignored
from bounds import working
from cases import CASES, DTYPES, LOSSES, SOFTMAX, SOFTMAX_CASES, Case
from sizes import SIZES
from softmax_cases import CLASS_ALPHA, CLASS_WEIGHT

import fastce

EPS = float(np.finfo(np.float32).eps)


def assert_close(results, others, ulps=16):
    for a, b in zip(results, others, strict=True):
        np.testing.assert_allclose(a, b, rtol=ulps * EPS, atol=ulps * EPS * 1e-3)


@pytest.fixture
def batch(rng):
    z = on_grid(rng, (41, 10)).astype(np.float32)
    z[:6] = confident(rng, (6, 10))
    y = rng.integers(10, size=41)
    y[:6] = np.argmax(z[:6], axis=-1)
    return z, y


@pytest.mark.parametrize(
    "c", [c for c in SOFTMAX_CASES if not {"z_loss", "softcap"} & c.options.keys()], ids=str
)
def test_a_softmax_gradient_sums_to_zero(c, isa):
    """Adding the same number to all logits of a row changes nothing."""
    batch = c.batch("float32")
    grad = c.build().value_and_grad(batch.logits, batch.target, **batch.call)[1]
    wide = grad.astype(np.float64)
    size = np.abs(wide).sum(axis=c.axis)
    assert np.all(np.abs(wide.sum(axis=c.axis)) <= 8 * EPS * size + 1e-37)
    assert size.any() or c.name in ("all ignored", "one class", "itself")


def test_focal_without_gamma_is_cross_entropy(batch, isa):
    focal = fastce.SoftmaxFocalLoss(gamma=0, reduction="none").value_grad_hess(*batch)
    plain = fastce.SoftmaxCrossEntropy(reduction="none").value_grad_hess(*batch)
    for a, b in zip(focal, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=8 * EPS)


@pytest.mark.parametrize("gamma", [0, 0.5, 2])
def test_alpha_at_its_ends_silences_a_side(gamma, isa, rng):
    z = on_grid(rng, 400).astype(np.float32)
    y = rng.integers(2, size=400)
    for alpha in (0.0, 1.0):
        loss = fastce.SigmoidFocalLoss(gamma=gamma, alpha=alpha, reduction="none")
        silent = y == 1 - alpha
        for x in loss.value_grad_hess(z, y):
            assert not x[silent].any()
            assert x[~silent].any()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("BCEWithLogits", {}),
        ("BCEWithLogits", {"label_smoothing": 0.2}),
        ("SigmoidFocalLoss", {"alpha": None}),
        ("SigmoidFocalLoss", {"alpha": 0.5, "gamma": 1.3}),
        ("SigmoidFocalLoss", {"alpha": None, "gamma": 0.5, "label_smoothing": 0.2}),
    ],
)
def test_symmetry_of_the_sides(name, options, isa, rng):
    """(z, y) → (−z, 1 − y) keeps value and Hessian, and negates the gradient."""
    z = on_grid(rng, 501).astype(np.float32)
    y = (rng.integers(5, size=501) / 4).astype(np.float32)
    loss = getattr(fastce, name)(reduction="none", **options)
    value, grad, hess = loss.value_grad_hess(z, y)
    mirrored = loss.value_grad_hess(-z, 1 - y)
    for a, b in zip((value, -grad, hess), mirrored, strict=True):
        np.testing.assert_allclose(a, b, rtol=4 * EPS, atol=4 * EPS)


# Masks, ignored rows, weights ---------------------------------------------------------------------

SOFTMAX_OPTIONS = [
    ("SoftmaxCrossEntropy", {}),
    ("SoftmaxCrossEntropy", {"label_smoothing": 0.1, "weight": CLASS_WEIGHT}),
    ("SoftmaxCrossEntropy", {"label_smoothing": 0.3, "z_loss": 0.01, "softcap": 30.0}),
    ("SoftmaxFocalLoss", {"gamma": 1.5, "alpha": CLASS_ALPHA}),
]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("name", "options"), SOFTMAX_OPTIONS)
def test_a_masked_class_equals_a_deleted_class(name, options, reduction, batch, isa):
    z, y = batch
    kept = np.array([0, 1, 3, 4, 6, 7, 9])
    where = np.isin(np.arange(10), kept)
    y = kept[y % len(kept)]
    masked = getattr(fastce, name)(reduction=reduction, **options).value_grad_hess(
        np.where(where, z, np.float32(np.nan)), y, where=where
    )
    fewer = {key: x[kept] if isinstance(x, np.ndarray) else x for key, x in options.items()}
    deleted = getattr(fastce, name)(reduction=reduction, **fewer).value_grad_hess(
        z[:, kept], np.searchsorted(kept, y)
    )
    # With label smoothing the gradient is a difference, of numbers of the size of 1.
    assert_close((masked[0], masked[1][:, kept], masked[2][:, kept]), deleted, ulps=64)
    assert not masked[1][:, ~where].any()
    assert not masked[2][:, ~where].any()


def assert_kept_alone(results, kept, deleted):
    """What is kept has the results of a call without the rest, and the rest is 0."""
    assert_close([x[kept] if np.ndim(x) else x for x in results], deleted)
    for x in results:
        assert not np.ndim(x) or not x[~kept].any()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(("name", "options"), SOFTMAX_OPTIONS)
@pytest.mark.parametrize("how", ["ignore_index", "sample_weight"])
def test_ignored_rows_equal_deleted_rows(how, name, options, reduction, batch, isa, rng):
    """Even when they hold NaN."""
    z, y = batch
    kept = rng.random(len(y)) < 0.6
    z = np.where(kept[:, None], z, np.float32(np.nan))
    loss = getattr(fastce, name)(reduction=reduction, **options)
    if how == "ignore_index":
        value, grad, hess = loss.value_grad_hess(z, np.where(kept, y, -100))
    else:
        value, grad, hess = loss.value_grad_hess(z, y, sample_weight=kept.astype(float))
    assert_kept_alone((value, grad, hess), kept, loss.value_grad_hess(z[kept], y[kept]))


@pytest.mark.parametrize("name", ["BCEWithLogits", "SigmoidFocalLoss"])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_masked_elements_equal_deleted_elements(reduction, name, isa, rng):
    z = on_grid(rng, 400).astype(np.float32)
    y = rng.integers(2, size=400)
    kept = rng.random(400) < 0.6
    loss = getattr(fastce, name)(reduction=reduction)
    poisoned = np.where(kept, z, np.float32(np.nan))
    deleted = loss.value_grad_hess(z[kept], y[kept])
    for call in ({"where": kept}, {"sample_weight": kept.astype(float)}):
        assert_kept_alone(loss.value_grad_hess(poisoned, y, **call), kept, deleted)


# Batches that can be cut along the first axis, and have a denominator; rows that go in chunks, too.
LONG = SIZES["largest block bytes"] // 4 + 1
DIVISIBLE = [Case("long rows", loss, some_ignored(-100), (9, LONG)) for loss in SOFTMAX]
DIVISIBLE += [
    c
    for c in CASES
    if c.reduction == "mean" and len(c.shape) > 1 and c.axis != 0 and c.name != "all ignored"
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", DIVISIBLE, ids=str)
def test_microbatches_add_up_to_the_batch(c, dtype, isa):
    """With the denominator of the whole batch as `normalizer`, no bit of a derivative changes.

    For single rows, in every plan, see tests/kernels/test_rows_alone_and_in_batches.py.
    """
    rows = SIZES["block rows"] + 5
    batch = replace(c, shape=(rows, *c.shape[1:])).batch(dtype)
    loss = c.build()
    value, grad, _ = loss.value_grad_hess(batch.logits, batch.target, **batch.call)
    call = dict(batch.call)
    normalizer = call.pop("normalizer", None)
    if normalizer is None:
        normalizer = denominator(c, batch)
    _, *same_divisor = loss.value_grad_hess(
        batch.logits, batch.target, **{**batch.call, "normalizer": normalizer}
    )
    parts = []
    for part in (slice(0, 2), slice(2, rows // 2 + 1), slice(rows // 2 + 1, rows)):
        sliced = {key: x[part] if np.shape(x)[:1] == (rows,) else x for key, x in call.items()}
        parts.append(
            loss.value_grad_hess(
                batch.logits[part], batch.target[part], normalizer=normalizer, **sliced
            )
        )
    values, *derivatives = zip(*parts, strict=True)
    eps = float(np.finfo(working(batch.logits.dtype)).eps)
    assert sum(values) == pytest.approx(value, rel=max(8 * eps, 1e-13))
    for found, expected in zip(derivatives, same_divisor, strict=True):
        np.testing.assert_array_equal(np.concatenate(found), expected)
    rtol = 8 * eps if batch.logits.dtype.itemsize > 2 else 2 * ml_dtypes.finfo(DTYPES[dtype]).eps
    wide = [x.astype(np.float64) for x in (same_divisor[0], grad)]
    np.testing.assert_allclose(*wide, rtol=float(rtol), atol=1e-7 if dtype == "float16" else 1e-37)


def denominator(c, batch):
    """Σ wᵢ over the samples that count."""
    if c.is_softmax:
        weight = np.broadcast_to(
            batch.call.get("sample_weight", 1.0), np.delete(batch.logits.shape, c.axis)
        )
        if batch.target.ndim == batch.logits.ndim:
            return weight.sum()
        used = batch.target != c.options.get("ignore_index", -100)
        class_weight = c.options.get("weight", np.ones(batch.logits.shape[c.axis]))
        return np.sum((weight * class_weight[np.where(used, batch.target, 0)])[used])
    weight = np.broadcast_to(batch.call.get("sample_weight", 1.0), batch.logits.shape)
    return np.sum(weight * np.broadcast_to(batch.call.get("where", True), batch.logits.shape))


# grad_output -------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", CASES, ids=str)
def test_grad_output_is_a_factor(c, isa, rng):
    batch = c.batch("float32")
    call = {key: x for key, x in batch.call.items() if key != "grad_output"}
    loss = c.build()
    value, grad, hess = loss.value_grad_hess(batch.logits, batch.target, **call)
    factor = np.float32(rng.choice([-2.0, 0.5, 4.0], size=np.shape(value)))
    scaled = loss.value_grad_hess(batch.logits, batch.target, grad_output=factor, **call)
    np.testing.assert_array_equal(scaled[0], value)
    if c.is_softmax and c.reduction == "none":
        factor = np.expand_dims(factor, c.axis)
    for a, b in zip(scaled[1:], (grad, hess), strict=True):
        np.testing.assert_allclose(a, factor * b, rtol=4 * EPS, atol=1e-37)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", CASES, ids=str)
def test_the_three_methods_give_the_same_bits(c, dtype, isa):
    batch = c.batch(dtype)
    loss = replace(c.build(), reduction="none")  # in what order losses are added depends on it
    call = {key: x for key, x in batch.call.items() if key not in ("grad_output", "normalizer")}
    value = loss(batch.logits, batch.target, **call)
    with_grad = loss.value_and_grad(batch.logits, batch.target, **call)
    with_hess = loss.value_grad_hess(batch.logits, batch.target, **call)
    np.testing.assert_array_equal(with_grad[0], value)
    np.testing.assert_array_equal(with_hess[0], value)
    below_normal = float(np.finfo(working(batch.logits.dtype)).smallest_subnormal)
    np.testing.assert_allclose(with_hess[1], with_grad[1], rtol=0, atol=2 * below_normal)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c", CASES, ids=str)
def test_out_equal_to_the_logits_gives_the_same_bits(c, dtype, isa):
    batch = c.batch(dtype)
    loss = c.build()
    value, grad = loss.value_and_grad(batch.logits, batch.target, **batch.call)
    logits = batch.logits.copy(order="K")
    value_in_place, out = loss.value_and_grad(logits, batch.target, out=logits, **batch.call)
    assert out is logits
    np.testing.assert_array_equal(value_in_place, value)
    assert out.tobytes() == grad.tobytes()


@pytest.mark.parametrize("shift", [-64.0, 1.0, 1024.0])
def test_a_common_shift_changes_nothing(shift, isa, rng):
    z = on_grid(rng, (33, 10)).astype(np.float32)
    y = likeliest(rng, z, -1)
    loss = fastce.SoftmaxCrossEntropy(reduction="none")
    for a, b in zip(loss.value_grad_hess(z, y), loss.value_grad_hess(z + shift, y), strict=True):
        np.testing.assert_allclose(a, b, rtol=4 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LOSSES)
def test_a_factor_of_1_changes_no_bit_of_weights_and_hessians(name, dtype, reduction, isa, rng):
    options = {"SoftmaxCrossEntropy": {"label_smoothing": 0.1}, "SoftmaxFocalLoss": {"gamma": 1.5}}
    loss = getattr(fastce, name)(reduction=reduction, **options.get(name, {}))
    for shape in ((7, 5), (4, 9, 10), (30, 300), (5, 2500)):
        z = (4 * rng.standard_normal(shape)).astype(dtype)
        if name in SOFTMAX:
            y = rng.integers(shape[-1], size=shape[:-1])
        else:
            y = rng.integers(2, size=shape).astype(dtype)
        real = np.float64 if dtype == "float64" else np.float32
        weight = (rng.random(y.shape) * rng.integers(2, size=y.shape)).astype(real)
        for given in ({}, {"sample_weight": weight}):
            plain = loss.value_grad_hess(z, y, **given)
            times_1 = loss.value_grad_hess(z, y, grad_output=np.ones(np.shape(plain[0])), **given)
            for a, b in zip(plain, times_1, strict=True):
                assert np.asarray(a).dtype == np.asarray(b).dtype
                np.testing.assert_array_equal(a, b)
            assert np.shape(plain[1]) == shape
