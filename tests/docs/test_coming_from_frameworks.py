"""The page "Coming from another library", against torch, torchvision, Keras, TensorFlow, optax."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from coming_from import CE, EACH, HOSTS, LOG_P, ONE_HOT, Checks, P, Q, S, T, W, Y, Z, rng, same

import fastce
from fastce import information

CONFIDENT = np.array([[20, 0]], np.float32)  # for target 0, a loss of 2.06e-9

MODULES = {  # that checks are given
    "torch": "torch.nn.functional",
    "torchvision": "torchvision.ops",
    "Keras": "keras.losses",
    "TensorFlow": "tensorflow",
    "optax": "optax.losses",
}

checks = Checks()
row = checks.row

# ------------------------------------------------------------------------------------------ torch


def tensors(*arrays):
    import torch

    return [torch.from_numpy(np.array(array)) for array in arrays]


@row("torch", "`F.cross_entropy(z, y)`")
def _(F):
    z, y = tensors(Z, Y)
    same(F.cross_entropy(z, y), CE(Z, Y))
    same(F.cross_entropy(z, y.byte()), CE(Z, Y))
    with pytest.raises((RuntimeError, IndexError)):
        F.cross_entropy(z, y.int())
    assert CE(Z, Y.astype(np.int32)) == CE(Z, Y)


@row("torch", "`F.cross_entropy(z, q)`")
def _(F):
    z, q = tensors(Z, Q)
    same(F.cross_entropy(z, q), CE(Z, Q))
    assert np.isfinite(F.cross_entropy(z, -q))
    with pytest.raises(ValueError, match="target"):
        CE(Z, -Q)


@row("torch", "`z` of shape (N, C, H, W)")
def _(F):
    images = rng.normal(size=(2, 4, 3, 5))
    labels = rng.integers(4, size=(2, 3, 5))
    z, y = tensors(images, labels)
    same(F.cross_entropy(z, y), fastce.SoftmaxCrossEntropy(axis=1)(images, labels))


@row("torch", "`weight=w`, labels")
def _(F):
    z, y, w = tensors(Z, Y, W)
    ours = fastce.SoftmaxCrossEntropy(weight=W)(Z, Y)
    same(F.cross_entropy(z, y, weight=w), ours)
    same(ours, (W[Y] * EACH(Z, Y)).sum() / W[Y].sum())
    assert np.isfinite(F.cross_entropy(z, y, weight=-w))
    with pytest.raises(ValueError, match="weight"):
        fastce.SoftmaxCrossEntropy(weight=-W)


@row("torch", "`weight=w`, probabilities")
def _(F):
    z, q, w = tensors(Z, Q, W)
    ours = fastce.SoftmaxCrossEntropy(weight=W)(Z, Q)
    same(F.cross_entropy(z, q, weight=w), ours)
    same(ours, fastce.SoftmaxCrossEntropy(weight=W, reduction="sum")(Z, Q) / len(Z))


@row("torch", "`label_smoothing=0.1`")
def _(F):
    z, y, w = tensors(Z, Y, W)
    for theirs, ours in ((None, None), (w, W)):
        loss = fastce.SoftmaxCrossEntropy(weight=ours, label_smoothing=0.1)
        same(F.cross_entropy(z, y, weight=theirs, label_smoothing=0.1), loss(Z, Y))


@row("torch", "`ignore_index=-100`")
def _(F):
    with_nan, labels = Z.copy(), Y.copy()
    with_nan[2], labels[2] = np.nan, -100
    z, y = tensors(with_nan, labels)
    value = F.cross_entropy(z.requires_grad_(), y)
    value.backward()
    ours, grad = CE.value_and_grad(with_nan, labels)
    same(value.detach(), ours)
    assert np.isnan(z.grad.numpy()[2]).all()
    assert (grad[2] == 0).all()
    same(np.delete(z.grad.numpy(), 2, axis=0), np.delete(grad, 2, axis=0), rtol=1e-5)


@row("torch", '`reduction="none"`')
def _(F):
    z, y = tensors(Z, Y)
    same(F.cross_entropy(z, y, reduction="none"), EACH(Z, Y), rtol=1e-5)


@row("torch", "`F.nll_loss(log_p, y)`")
def _(F):
    log_p, y = tensors(LOG_P, Y)
    same(F.nll_loss(log_p, y), CE(LOG_P, Y))


@row("torch", '`F.kl_div(log_q, p, reduction="batchmean")`')
def _(F):
    log_p, q = tensors(LOG_P, Q)
    ours = information.kl_divergence(Q, P).mean()
    same(F.kl_div(log_p, q, reduction="batchmean"), ours, rtol=1e-5)
    same(F.kl_div(log_p, q, reduction="mean") * Z.shape[1], ours, rtol=1e-5)


@row("torch", "`F.kl_div(log_q, log_p, log_target=True)` of two `log_softmax`")
def _(F):
    temperature, teacher = 3.0, Z[::-1].copy()
    student_log, teacher_log = (
        F.log_softmax(*tensors(z / temperature), dim=-1) for z in (Z, teacher)
    )
    theirs = F.kl_div(student_log, teacher_log, log_target=True, reduction="batchmean")
    ours = fastce.SoftmaxKLDivergence(temperature=temperature)(Z, teacher)
    same(temperature**2 * theirs, ours, rtol=1e-5)


@row("torch", "`F.binary_cross_entropy_with_logits(z, t)`")
def _(F):
    z, t = tensors(Z, T)
    same(F.binary_cross_entropy_with_logits(z, t), fastce.BCEWithLogits()(Z, T))
    assert F.binary_cross_entropy_with_logits(abs(z), t + 5) < 0
    with pytest.raises(ValueError, match="target"):
        fastce.BCEWithLogits()(abs(Z), T + 5)


@row("torch", "`weight=w`, binary")
def _(F):
    z, t, w = tensors(Z, T, W)
    bce = fastce.BCEWithLogits()
    theirs = F.binary_cross_entropy_with_logits(z, t, weight=w)
    same(theirs, bce(Z, T, sample_weight=W, normalizer=Z.size))
    weights = np.broadcast_to(W, Z.shape)
    same(theirs * Z.size / weights.sum(), bce(Z, T, sample_weight=W))


@row("torch", "`pos_weight=w`")
def _(F):
    z, t, w = tensors(Z, T, W)
    same(
        F.binary_cross_entropy_with_logits(z, t, pos_weight=w),
        fastce.BCEWithLogits(pos_weight=W)(Z, T),
    )


@row("torch", "`F.softmax(z, dim=-1)`")
def _(F):
    (z,) = tensors(Z)
    same(F.softmax(z, dim=-1), fastce.softmax(Z))


@row("torch", "loss of logits (20, 0), target 0, in float32")
def _(F):
    z, y = tensors(CONFIDENT, [0])
    value = F.cross_entropy(z.requires_grad_(), y)
    value.backward()
    assert value.item() == 0
    assert (z.grad[0, 0] == 0).item()
    assert f"{CE(CONFIDENT, [0]):.2e}" == "2.06e-09"


# ------------------------------------------------------------------------------------ torchvision


def focal_of(ops, z, t, **options):
    """Return torchvision's losses, and the gradient of their sum."""
    logits, target = tensors(z, t)
    loss = ops.sigmoid_focal_loss(logits.requires_grad_(), target, **options)
    loss.sum().backward()
    return loss.detach(), logits.grad


def same_focal(options, target, theirs):
    loss, grad = fastce.SigmoidFocalLoss(**options).value_and_grad(Z, target)
    same(theirs[0], loss, rtol=1e-5)
    same(theirs[1], grad, rtol=1e-5)


@row("torchvision", "`ops.sigmoid_focal_loss(z, t)`")
def _(ops):
    theirs = focal_of(ops, Z, T)
    same_focal({"reduction": "none"}, T, theirs)
    same_focal({"reduction": "none", "alpha": 0.25, "gamma": 2.0}, T, theirs)


@row("torchvision", "`alpha=-1`")
def _(ops):
    same_focal({"reduction": "none", "alpha": None}, T, focal_of(ops, Z, T, alpha=-1))


@row("torchvision", '`reduction="mean"`')
def _(ops):
    same_focal({}, T, focal_of(ops, Z, T, reduction="mean"))


@row("torchvision", "targets between 0 and 1")
def _(ops):
    soft = (T + Q) / 2
    assert ((soft > 0) & (soft < 1)).all()
    same_focal({"reduction": "none"}, soft, focal_of(ops, Z, soft))


@row("torchvision", "loss of logit 20, target 1, in float32")
def _(ops):
    loss, grad = focal_of(ops, CONFIDENT[:, :1], [[1.0]])
    assert loss.item() == 0
    assert grad.item() == 0
    assert f"{fastce.SigmoidFocalLoss()(CONFIDENT[:, :1], [[1.0]]):.2e}" == "2.19e-27"


# ------------------------------------------------------------------------------------------ Keras


@row("Keras", "`SparseCategoricalCrossentropy(from_logits=True)`")
def _(keras):
    from_logits = keras.SparseCategoricalCrossentropy(from_logits=True)
    same(from_logits(Y, Z), CE(Z, Y))
    assert not np.isclose(keras.SparseCategoricalCrossentropy()(Y, P), CE(P, Y))
    assert from_logits(np.array([0]), CONFIDENT) == 0


@row("Keras", "`SparseCategoricalCrossentropy()` on probabilities")
def _(keras):
    sparse = keras.SparseCategoricalCrossentropy()
    same(sparse(Y, P), CE(np.log(P), Y), rtol=1e-5)
    p = np.array([[1e-20, 1.0]])
    assert round(float(sparse(np.array([0]), p)), 1) == 16.1
    assert round(CE(np.log(p), [0]), 1) == 46.1


@row("Keras", "`CategoricalCrossentropy(from_logits=True)`")
def _(keras):
    same(keras.CategoricalCrossentropy(from_logits=True)(ONE_HOT, Z), CE(Z, ONE_HOT))


@row("Keras", "`CategoricalCrossentropy(label_smoothing=0.1)`")
def _(keras):
    smoothed = fastce.SoftmaxCrossEntropy(label_smoothing=0.1)
    theirs = keras.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    same(theirs(ONE_HOT, Z), smoothed(Z, Y))
    same(theirs(ONE_HOT, Z), smoothed(Z, ONE_HOT))
    with pytest.raises(TypeError):
        keras.SparseCategoricalCrossentropy(label_smoothing=0.1)


@row("Keras", "`sample_weight=w`, the default reduction")
def _(keras):
    loss = keras.SparseCategoricalCrossentropy(from_logits=True)
    same(loss(Y, Z, sample_weight=S), CE(Z, Y, sample_weight=S, normalizer=len(Y)))


@row("Keras", '`reduction="mean_with_sample_weight"`')
def _(keras):
    loss = keras.SparseCategoricalCrossentropy(
        from_logits=True, reduction="mean_with_sample_weight"
    )
    same(loss(Y, Z, sample_weight=S), CE(Z, Y, sample_weight=S))


@row("Keras", "`ignore_class=255`")
def _(keras):
    labels = np.where(Y == 1, 255, Y)
    loss = keras.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    same(loss(labels, Z), fastce.SoftmaxCrossEntropy(ignore_index=255)(Z, labels))


@row("Keras", "`BinaryCrossentropy(from_logits=True)`")
def _(keras):
    same(keras.BinaryCrossentropy(from_logits=True)(T, Z), fastce.BCEWithLogits()(Z, T))
    each = keras.BinaryCrossentropy(from_logits=True, reduction=None)(T, Z)
    same(each, fastce.BCEWithLogits(reduction="none")(Z, T).mean(axis=-1))


@row("Keras", "`BinaryCrossentropy(label_smoothing=0.1)`")
def _(keras):
    loss = keras.BinaryCrossentropy(from_logits=True, label_smoothing=0.1)
    same(loss(T, Z), fastce.BCEWithLogits(label_smoothing=0.1)(Z, T))


@row("Keras", "`BinaryFocalCrossentropy()`")
def _(keras):
    focal = keras.BinaryFocalCrossentropy
    plain, balanced = focal(from_logits=True), focal(from_logits=True, apply_class_balancing=True)
    same(plain(T, Z), fastce.SigmoidFocalLoss(alpha=None)(Z, T), rtol=1e-5)
    same(balanced(T, Z), fastce.SigmoidFocalLoss()(Z, T), rtol=1e-5)


@row("Keras", "`CategoricalFocalCrossentropy(alpha=0.25)`")
def _(keras):
    loss = keras.CategoricalFocalCrossentropy(alpha=0.25, from_logits=True)
    same(loss(ONE_HOT, Z), fastce.SoftmaxFocalLoss(alpha=np.full(4, 0.25))(Z, Y), rtol=1e-5)


# ------------------------------------------------------------------------------------- TensorFlow


@row("TensorFlow", "`tf.nn.sparse_softmax_cross_entropy_with_logits`")
def _(tf):
    function = tf.nn.sparse_softmax_cross_entropy_with_logits
    same(function(labels=Y, logits=Z), EACH(Z, Y), rtol=1e-5)
    for label in (-100, 7):
        with pytest.raises(tf.errors.InvalidArgumentError):
            function(labels=[label], logits=Z[:1])
    with pytest.raises(IndexError):
        CE(Z[:1], [7])


@row("TensorFlow", "`tf.nn.softmax_cross_entropy_with_logits`")
def _(tf):
    for q in (Q, 2 * Q):
        same(tf.nn.softmax_cross_entropy_with_logits(labels=q, logits=Z), EACH(Z, q), rtol=1e-5)


@row("TensorFlow", "`tf.nn.sigmoid_cross_entropy_with_logits`")
def _(tf):
    ours = fastce.BCEWithLogits(reduction="none")(Z, T)
    same(tf.nn.sigmoid_cross_entropy_with_logits(labels=T, logits=Z), ours, rtol=1e-5)


@row("TensorFlow", "`tf.nn.weighted_cross_entropy_with_logits`")
def _(tf):
    theirs = tf.nn.weighted_cross_entropy_with_logits(labels=T, logits=Z, pos_weight=W)
    same(theirs, fastce.BCEWithLogits(pos_weight=W, reduction="none")(Z, T), rtol=1e-5)


@row("TensorFlow", "`tf.reduce_mean(...)`")
def _(tf):
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=Y, logits=Z)
    same(tf.reduce_mean(each), CE(Z, Y))


# ------------------------------------------------------------------------------------------ optax


@row("optax", "`softmax_cross_entropy_with_integer_labels(z, y)`")
def _(optax):
    function = optax.softmax_cross_entropy_with_integer_labels
    same(function(Z, Y), EACH(Z, Y), rtol=1e-5)
    assert function(CONFIDENT, np.array([0])) == 0
    same(function(Z[:1], np.array([-1])), EACH(Z[:1], [3]), rtol=1e-5)
    assert np.isnan(function(Z[:1], np.array([4])))
    for label in (-1, 4):
        with pytest.raises(IndexError):
            CE(Z[:1], [label])


@row("optax", "`softmax_cross_entropy(z, q)`")
def _(optax):
    same(optax.softmax_cross_entropy(Z, Q), EACH(Z, Q), rtol=1e-5)
    z, q = np.array([[1, 2, -np.inf]], np.float32), np.array([[1, 0, 0]], np.float32)
    assert np.isnan(optax.softmax_cross_entropy(z, q))
    assert np.isfinite(CE(z, q))


@row("optax", "`safe_softmax_cross_entropy(z, q)`")
def _(optax):
    z, q = np.array([[1, 2, -np.inf]], np.float32), np.array([[1, 0, 0]], np.float32)
    same(optax.safe_softmax_cross_entropy(z, q), EACH(z, q))


@row("optax", "`where=mask`")
def _(optax):
    function, mask = optax.softmax_cross_entropy_with_integer_labels, W < 2.5
    labels = np.array([0, 1, 2, 2, 0, 1])
    same(function(Z, labels, where=np.broadcast_to(mask, Z.shape)), EACH(Z, labels, where=mask))
    with pytest.raises(ValueError, match="shapes"):
        function(Z, labels, where=mask)


@row("optax", "`smooth_labels(one_hot, 0.1)`")
def _(optax):
    smooth = optax.smooth_labels(ONE_HOT, 0.1)
    theirs = optax.softmax_cross_entropy(Z, smooth)
    same(theirs.mean(), fastce.SoftmaxCrossEntropy(label_smoothing=0.1)(Z, Y))


@row("optax", "`sigmoid_binary_cross_entropy(z, t)`")
def _(optax):
    ours = fastce.BCEWithLogits(reduction="none")(Z, T)
    same(optax.sigmoid_binary_cross_entropy(Z, T), ours, rtol=1e-5)


@row("optax", "`sigmoid_focal_loss(z, t)`")
def _(optax):
    ours = fastce.SigmoidFocalLoss(alpha=None, reduction="none")(Z, T)
    same(optax.sigmoid_focal_loss(Z, T), ours, rtol=1e-5)


@row("optax", "`kl_divergence(log_q, p)`")
def _(optax):
    same(optax.kl_divergence(LOG_P, Q), information.kl_divergence(Q, P), rtol=1e-5)


@row("optax", "`jax.grad` of a loss")
def _(optax):
    import jax

    def mean(z):
        return optax.softmax_cross_entropy_with_integer_labels(z, Y).mean()

    same(jax.grad(mean)(Z), CE.value_and_grad(Z, Y)[1], rtol=1e-5)


# ------------------------------------------------------------------------------------------ tests


def test_every_row_has_a_check():
    checks.assert_complete("torch", "torchvision", "Keras", "TensorFlow", "optax")


@pytest.mark.parametrize(("host", "theirs"), checks.of_installed())
@pytest.mark.filterwarnings("ignore")
def test_row(host, theirs):
    for package in HOSTS[host]:
        pytest.importorskip(package)
    checks[host, theirs](importlib.import_module(MODULES[host]))
