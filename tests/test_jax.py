"""fastce.jax against JAX's own cross-entropy, under each of JAX's transformations."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

import fastce  # noqa: E402
import fastce.jax as bridge  # noqa: E402


@pytest.fixture
def double():
    """Let JAX compute in float64."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def batch(rng):
    logits = rng.normal(0, 2, (12, 7)).astype(np.float32)
    return jnp.asarray(logits), jnp.asarray(rng.integers(0, 7, 12))


def jax_cross_entropy(logits, target):
    log_p = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(log_p, target[:, None], 1))


def test_value_and_gradient_are_jaxs(batch):
    ce = bridge.function(fastce.SoftmaxCrossEntropy())
    expected, expected_grad = jax.value_and_grad(jax_cross_entropy)(*batch)
    for evaluate in (jax.value_and_grad(ce), jax.jit(jax.value_and_grad(ce))):
        loss, grad = evaluate(*batch)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(jax.jit(ce)(*batch), expected, rtol=1e-6)


LOSSES = [
    fastce.SoftmaxCrossEntropy(label_smoothing=0.1, z_loss=0.01, softcap=3.0, weight=np.arange(7)),
    fastce.SoftmaxFocalLoss(gamma=1.5),
    fastce.BCEWithLogits(pos_weight=np.arange(1.0, 8.0)),
    fastce.SigmoidFocalLoss(),
]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_jax_is_given_what_the_kernels_find(loss, reduction, batch, rng):
    loss = type(loss)(**{**loss._options(), "reduction": reduction})
    logits, target = batch
    if not hasattr(loss, "axis"):
        target = jnp.asarray(rng.integers(0, 2, (12, 7)).astype(np.float32))
    shape = (12,) if hasattr(loss, "axis") else (12, 7)
    weight = rng.random(shape).astype(np.float32)
    factor = rng.random(shape).astype(np.float32) if reduction == "none" else np.float32(3)
    f = bridge.function(loss)

    value, pull_back = jax.vjp(lambda z: f(z, target, weight), logits)
    (grad,) = pull_back(jnp.asarray(factor))
    expected, expected_grad = loss.value_and_grad(
        np.asarray(logits), np.asarray(target), sample_weight=weight, grad_output=factor
    )
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_jax_types(dtype, batch, double):
    logits, target = batch[0].astype(dtype), batch[1]
    ce = fastce.SoftmaxCrossEntropy()
    loss, grad = jax.jit(jax.value_and_grad(bridge.function(ce)))(logits, target)
    expected, expected_grad = ce.value_and_grad(np.asarray(logits), np.asarray(target))
    assert loss.dtype == (np.float64 if dtype == "float64" else np.float32)
    assert grad.dtype == logits.dtype
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    np.testing.assert_allclose(
        np.asarray(grad, np.float64), expected_grad.astype(np.float64), rtol=1e-6, atol=1e-7
    )


def test_jax_gradients_agree_with_differences(batch, double):
    logits, target = batch[0].astype(np.float64), batch[1]
    f = bridge.function(fastce.SoftmaxCrossEntropy(label_smoothing=0.1))
    direction = jnp.asarray(np.random.default_rng(0).normal(size=logits.shape))
    slope = (f(logits + 1e-5 * direction, target) - f(logits - 1e-5 * direction, target)) / 2e-5
    np.testing.assert_allclose(jnp.vdot(jax.grad(f)(logits, target), direction), slope, rtol=1e-7)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_jax_vmap(reduction, rng):
    logits = jnp.asarray(rng.normal(size=(3, 4, 5, 6)).astype(np.float32))
    target = jnp.asarray(rng.integers(0, 6, (3, 4, 5)))
    ce = fastce.SoftmaxCrossEntropy(reduction=reduction)
    f = bridge.function(ce)
    mapped = jax.jit(jax.vmap(jax.vmap(f)))(logits, target)
    grads = jax.vmap(jax.vmap(jax.grad(lambda z, y: f(z, y).sum())))(logits, target)
    shared = jax.vmap(f, in_axes=(0, None))(logits[:, 0], target[0, 0])
    for i in np.ndindex(3, 4):
        expected, grad = ce.value_and_grad(np.asarray(logits[i]), np.asarray(target[i]))
        np.testing.assert_allclose(mapped[i], expected, rtol=1e-6)
        np.testing.assert_allclose(grads[i], grad, rtol=1e-6)
    for i in range(3):
        expected = ce(np.asarray(logits[i, 0]), np.asarray(target[0, 0]))
        np.testing.assert_allclose(shared[i], expected, rtol=1e-6)


def test_invalid_values_give_nan_in_jax(batch):
    logits, target = batch
    f = bridge.function(fastce.SoftmaxCrossEntropy())
    loss, grad = jax.jit(jax.value_and_grad(f))(logits, target.at[3].set(7))
    assert np.isnan(loss)
    assert np.isnan(grad).all()
    assert np.isnan(f(logits, target, -jnp.ones(12)))
    binary = bridge.function(fastce.BCEWithLogits())
    assert np.isnan(binary(logits, jnp.full_like(logits, 2.0)))
    # An invalid element of a mapped axis leaves the others as they are.
    both = jax.vmap(f, in_axes=(None, 0))(logits, jnp.stack([target, target.at[0].set(-1)]))
    np.testing.assert_array_equal(np.isnan(both), [False, True])


def test_shapes_that_do_not_fit_raise_while_jax_traces(batch):
    logits, target = batch
    f = jax.jit(bridge.function(fastce.SoftmaxCrossEntropy(weight=np.ones(7))))
    with pytest.raises(ValueError, match="must have shape"):
        f(logits, target[:5])
    with pytest.raises(ValueError, match="7 weights"):
        f(logits[:, :5], target)
    with pytest.raises(ValueError, match="broadcast"):
        f(logits, target, jnp.ones(5))
    with pytest.raises(TypeError, match="logits must be"):
        f(target[:, None], target)
    with pytest.raises(TypeError, match="loss must be"):
        bridge.function("cross entropy")


def test_second_jax_derivative_raises(batch):
    f = bridge.function(fastce.SoftmaxCrossEntropy())
    with pytest.raises(ValueError, match="JVP"):
        jax.hessian(f)(*batch)


def test_jax_training_is_the_same(rng):
    features = jnp.asarray(rng.normal(size=(64, 8)).astype(np.float32))
    target = jnp.asarray(rng.integers(0, 5, 64))

    def train(loss):
        step = jax.jit(jax.value_and_grad(lambda w: loss(features @ w, target)))
        weights, history = jnp.zeros((8, 5)), []
        for _ in range(30):
            value, grad = step(weights)
            weights -= 0.5 * grad
            history.append(float(value))
        return history

    ours = train(bridge.function(fastce.SoftmaxCrossEntropy()))
    assert ours[-1] < ours[0] - 0.05
    np.testing.assert_allclose(ours, train(jax_cross_entropy), rtol=1e-5)
