"""fastce.jax against JAX's own cross-entropy, under each of JAX's transformations."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402
from jax.test_util import check_grads  # noqa: E402

import fastce  # noqa: E402
import fastce.jax as bridge  # noqa: E402
from fastce._call.loss import Loss  # noqa: E402


@pytest.fixture
def batch(rng):
    logits = rng.normal(0, 2, (12, 7)).astype(np.float32)
    return jnp.asarray(logits), jnp.asarray(rng.integers(0, 7, 12))


def log_probs(logits, target, where=None):
    """As JAX computes them."""
    log_p = jax.nn.log_softmax(logits, where=where)
    return jnp.take_along_axis(log_p, target[:, None], 1)[:, 0]


def jax_cross_entropy(logits, target):
    return -jnp.mean(log_probs(logits, target))


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
    fastce.SoftmaxKLDivergence(temperature=2.0),
    fastce.BCEWithLogits(pos_weight=np.arange(1.0, 8.0)),
    fastce.SigmoidFocalLoss(),
]


def target_for(loss, rng):
    if isinstance(loss, fastce.SoftmaxKLDivergence):
        return jnp.asarray(rng.normal(size=(12, 7)).astype(np.float32))
    if hasattr(loss, "axis"):
        return jnp.asarray(rng.integers(0, 7, 12))
    return jnp.asarray(rng.integers(0, 2, (12, 7)).astype(np.float32))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_jax_is_given_what_the_kernels_find(loss, reduction, batch, rng):
    loss = replace(loss, reduction=reduction)
    logits, target = batch[0], target_for(loss, rng)
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


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_jax_derivatives_agree_with_differences(loss, reduction, rng, double):
    f = bridge.function(replace(loss, reduction=reduction))
    logits, target = jnp.asarray(rng.normal(0, 2, (12, 7))), target_for(loss, rng)
    for wrap in (lambda g: g, jax.jit):
        check_grads(wrap(lambda z: f(z, target)), (logits,), order=1, modes=("fwd", "rev"))


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_jax_forward_mode(loss, rng):
    f = bridge.function(loss)
    logits, target = jnp.asarray(rng.normal(size=(12, 7)), jnp.float32), target_for(loss, rng)
    tangents = jnp.asarray(rng.normal(size=(3, 12, 7)), jnp.float32)
    value, grad = loss.value_and_grad(np.asarray(logits), np.asarray(target))
    expected = np.tensordot(tangents, grad, 2)

    along = [jax.jvp(lambda z: f(z, target), (logits,), (tangent,)) for tangent in tangents]
    np.testing.assert_allclose([found for found, _ in along], [value] * 3, rtol=1e-6)
    np.testing.assert_allclose([slope for _, slope in along], expected, rtol=1e-4, atol=1e-6)
    found, linear = jax.linearize(lambda z: f(z, target), logits)
    np.testing.assert_allclose(found, value, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(linear)(tangents), expected, rtol=1e-4, atol=1e-6)
    for jacobian in (jax.jacfwd(f), jax.jacrev(f), jax.jit(jax.jacfwd(f))):
        np.testing.assert_allclose(jacobian(logits, target), grad, rtol=1e-5, atol=1e-8)

    losses = bridge.function(replace(loss, reduction="none"))
    forward, reverse = jax.jacfwd(losses)(logits, target), jax.jacrev(losses)(logits, target)
    np.testing.assert_allclose(forward, reverse, rtol=1e-5, atol=1e-8)
    assert forward.shape == losses(logits, target).shape + logits.shape


@pytest.fixture
def kernel_calls(monkeypatch):
    """Return a list to which each call of the kernels adds the name of its method."""
    calls = []
    for name in ("__call__", "value_and_grad", "value_grad_hess"):
        method = getattr(Loss, name)

        def counted(self, *args, method=method, name=name, **kwargs):
            calls.append(name)
            return method(self, *args, **kwargs)

        monkeypatch.setattr(Loss, name, counted)
    return calls


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (lambda f, z, y: f(z, y), ["__call__"]),
        (lambda f, z, y: jax.jit(f)(z, y), ["__call__"]),
        (lambda f, z, y: jax.grad(f)(z, y), ["value_and_grad"]),
        (lambda f, z, y: jax.jit(jax.value_and_grad(f))(z, y), ["value_and_grad"]),
        (lambda f, z, y: jax.jvp(lambda z: f(z, y), (z,), (z,)), ["value_and_grad"]),
        (lambda f, z, y: jax.jacfwd(f)(z, y), ["value_and_grad"]),
        (
            lambda f, z, y: list(map(jax.linearize(lambda z: f(z, y), z)[1], (z, 2 * z))),
            ["value_and_grad"],
        ),
        (lambda f, z, y: jax.grad(lambda s: s * f(z, y))(2.0), ["__call__"]),
    ],
    ids=["value", "jit", "grad", "jit grad", "jvp", "jacfwd", "linearize", "not in the logits"],
)
def test_kernels_run_once_and_only_for_what_is_wanted(use, expected, batch, kernel_calls):
    jax.block_until_ready(use(bridge.function(fastce.SoftmaxCrossEntropy()), *batch))
    assert kernel_calls == expected


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


@pytest.mark.parametrize(
    "twice",
    [
        jax.hessian,
        lambda f: jax.jit(jax.hessian(f)),
        lambda f: jax.jacfwd(jax.jacfwd(f)),
        lambda f: jax.jacrev(jax.grad(f)),
        lambda f: lambda z, y: jax.jvp(jax.grad(lambda z: f(z, y)), (z,), (z,)),
    ],
    ids=["hessian", "jit hessian", "fwd fwd", "rev rev", "fwd rev"],
)
def test_second_jax_derivative_raises(twice, batch):
    f = bridge.function(fastce.SoftmaxCrossEntropy())
    with pytest.raises(NotImplementedError, match=r"first derivatives only.*value_grad_hess"):
        twice(f)(*batch)


def test_gradient_as_a_constant(batch):
    """JAX differentiates what stop_gradient is applied to."""
    logits, target = batch
    grad = jax.grad(bridge.function(fastce.SoftmaxCrossEntropy()))
    stop = jax.lax.stop_gradient
    with pytest.raises(NotImplementedError, match="stop_gradient to the logits, not to the grad"):
        jax.grad(lambda z: (z * stop(grad(z, target))).sum())(logits)
    found = jax.grad(lambda z: (z * grad(stop(z), target)).sum())(logits)
    np.testing.assert_array_equal(found, grad(logits, target))


def test_derivatives_in_other_arguments_raise(batch, rng):
    logits, _ = batch
    soft = jax.nn.softmax(jnp.asarray(rng.normal(size=(12, 7)), jnp.float32))
    weight = jnp.ones(12)
    f = bridge.function(fastce.SoftmaxCrossEntropy())
    with pytest.raises(ValueError, match=r"target must not depend.*stop_gradient\(target\)"):
        jax.grad(f, argnums=1)(logits, soft)
    with pytest.raises(ValueError, match="sample_weight must not depend"):
        jax.jit(jax.grad(lambda z: f(z, soft, weight * z.sum())))(logits)
    # Soft labels that the same parameters predict are common in self-training.
    held = jax.grad(lambda z: f(z, jax.lax.stop_gradient(jax.nn.softmax(z / 2))))(logits)
    expected = jax.grad(f)(logits, jax.nn.softmax(logits / 2))
    np.testing.assert_allclose(held, expected, rtol=1e-6, atol=1e-9)


# Masks, against JAX's own formulas ----------------------------------------------------------------


def test_masked_classes_in_jax(batch, rng):
    logits, target = batch
    allowed = jnp.asarray(rng.random((12, 7)) < 0.6).at[jnp.arange(12), target].set(True)

    def expected(logits, target, where):
        return -log_probs(logits, target, where)

    losses = bridge.function(fastce.SoftmaxCrossEntropy(reduction="none"))
    by_name = jax.jit(lambda z, y, mask: losses(z, y, where=mask))
    np.testing.assert_allclose(
        by_name(logits, target, allowed), expected(*batch, allowed), rtol=1e-5
    )
    found, theirs = (
        jax.jit(jax.grad(lambda z, f=f: f(z, target, allowed).sum()))(logits)
        for f in (by_name, expected)
    )
    np.testing.assert_allclose(found, theirs, rtol=1e-4, atol=1e-7)
    assert not found[~allowed].any()
    # One mask for all, which broadcasts; vmap makes a batch of it.
    none_of_last = jnp.arange(7) < 6
    mapped = jax.vmap(lambda z, y: losses(z, y, where=none_of_last))(logits, target % 6)
    np.testing.assert_allclose(mapped, expected(logits[:, :6], target % 6, None), rtol=1e-5)


def test_masked_elements_in_jax(rng):
    logits, mask = jnp.asarray(rng.normal(size=(4, 3)), jnp.float32), rng.random((4, 3)) < 0.5
    target = rng.integers(0, 2, (4, 3))
    loss, grad = jax.value_and_grad(bridge.function(fastce.BCEWithLogits()))(
        logits, target, where=mask
    )
    theirs = jax.nn.softplus(jnp.where(target == 1, -logits, logits))[mask]
    np.testing.assert_allclose(loss, theirs.mean(), rtol=1e-6)
    assert not np.asarray(grad)[~mask].any()


# Arguments ----------------------------------------------------------------------------------------


def test_jax_takes_what_the_loss_takes(batch):
    ce = fastce.SoftmaxCrossEntropy()
    f = bridge.function(ce)
    z, y = np.asarray(batch[0]), np.asarray(batch[1])
    weight = [1.0, 2.0] * 6
    expected = ce(z, y, sample_weight=weight)
    for logits in (batch[0], z, z.tolist(), tuple(map(tuple, z.tolist())), list(batch[0])):
        for target in (batch[1], y, y.tolist(), y.astype(np.uint8), list(batch[1])):
            np.testing.assert_allclose(f(logits, target, weight), expected, rtol=1e-6)
    np.testing.assert_allclose(f(batch[0], [0] * 12, 2.0), ce(z, [0] * 12), rtol=1e-6)
    np.testing.assert_allclose(jax.jit(lambda a: f([a, 0.0], 0))(20.0), 2.0611537e-09, rtol=1e-6)
    binary = bridge.function(fastce.BCEWithLogits())
    np.testing.assert_allclose(binary(0.5, 1), fastce.BCEWithLogits()(0.5, 1), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(binary)(0.5, True), -0.37754068, rtol=1e-6)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["plain", "jit"])
@pytest.mark.parametrize("loss", [fastce.SoftmaxCrossEntropy(), fastce.BCEWithLogits()], ids=str)
def test_one_sample_under_vmap(loss, wrap, rng):
    axis = hasattr(loss, "axis")
    logits = jnp.asarray(rng.normal(size=(5, 3) if axis else (5,)), jnp.float32)
    target = jnp.asarray([0, 1, 1, 0, 1])
    value, grad = wrap(jax.vmap(jax.value_and_grad(bridge.function(loss))))(logits, target)
    for i in range(5):
        expected, expected_grad = loss.value_and_grad(np.asarray(logits[i]), np.asarray(target[i]))
        np.testing.assert_allclose(value[i], expected, rtol=1e-6)
        np.testing.assert_allclose(grad[i], expected_grad, rtol=1e-6)


def test_a_loss_beyond_float32_is_infinite():
    logits = jnp.full((4, 2), 3e38).at[:, 1].set(-3e38)
    f = bridge.function(fastce.BCEWithLogits(reduction="sum"))
    loss, grad = jax.value_and_grad(f)(logits, jnp.zeros((4, 2)))
    assert loss == np.inf
    np.testing.assert_array_equal(grad, [[1, 0]] * 4)


def test_arrays_as_options_must_fit_in_jax():
    for option in ({"pos_weight": np.ones(3)}, {"pos_weight": np.ones((2, 4))}):
        with pytest.raises(ValueError, match=r"pos_weight of shape .* does not broadcast"):
            bridge.function(fastce.BCEWithLogits(**option))(Z, np.zeros((3, 4)))
    focal = fastce.SigmoidFocalLoss(alpha=[0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(
        bridge.function(focal)(Z, Z.astype(int)), focal(Z, Z.astype(int)), rtol=1e-6
    )
    with pytest.raises(ValueError, match=r"alpha of shape \(4,\) does not broadcast"):
        bridge.function(focal)(Z[:, :3], Z[:, :3])


def test_labels_as_one_hot_integers_and_negative_weights_in_jax(rng):
    ce = bridge.function(fastce.SoftmaxCrossEntropy(reduction="sum"))
    logits = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
    labels, advantage = jnp.asarray([0, 3, 1]), jnp.asarray([1.5, -2.0, 0.25])
    one_hot = jax.nn.one_hot(labels, 4, dtype=int)
    log_p = log_probs(logits, labels)
    for target in (labels, one_hot, one_hot.astype(bool)):
        np.testing.assert_allclose(
            ce(logits, target, advantage), -(advantage * log_p).sum(), rtol=1e-5
        )
    assert np.isnan(ce(logits, one_hot - 0.5))  # negative probabilities
    mean = bridge.function(fastce.SoftmaxCrossEntropy())
    assert np.isnan(mean(logits, labels, advantage))  # divided by a sum of weights below 0


Z, Y = np.zeros((3, 4), np.float32), np.zeros(3, int)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("a", Y), TypeError, "logits must be an array, a list or a number, got str"),
        ((None, Y), TypeError, "logits must be an array, a list or a number, got NoneType"),
        ((jax.random.split(jax.random.key(0), 3), Y), TypeError, "logits must be an array"),
        (([[1.0, 2.0], [1.0]], Y), TypeError, "logits must be an array, .* got list"),
        ((Z.astype(">f4"), Y), TypeError, "logits must be an array, .* got ndarray of >f4"),
        ((Z, Y.astype(str)), TypeError, "target must be an array, .* got ndarray of <U"),
        ((Z, None), TypeError, "target must be an array, .* got NoneType"),
        ((Z, {"labels": Y}), TypeError, "target must be an array, .* got dict"),
        ((Z, Y, "balanced"), TypeError, "sample_weight must be an array, .* got str"),
        ((Z, Y, None, object()), TypeError, "where must be an array, .* got object"),
        ((np.ma.masked_array(Z), Y), TypeError, "logits is a masked array"),
        ((Z.astype(complex), Y), TypeError, "logits must be float16.*complex"),
        ((Z.astype(int), Y), TypeError, "logits must be float16.*int"),
        ((jnp.zeros((3, 4), jnp.float8_e4m3fn), Y), TypeError, "logits must be float16.*float8"),
        ((Z, Y, jnp.ones(3, jnp.float8_e5m2)), TypeError, "sample_weight must be real.*float8"),
        ((Z, Y[:, None]), ValueError, r"\(3, 1\).*class labels must have shape \(3,\)"),
        ((Z, Y.astype(np.float32)), TypeError, "target must be integer class labels.*float32"),
        ((Z, Y[:2]), ValueError, r"must have shape \(3,\)"),
        ((Z, Y, [1.0, 2.0]), ValueError, r"sample_weight of shape \(2,\) does not broadcast"),
        ((Z, Y, None, [1, 1, 1, 0]), TypeError, "where must be bool, got int"),
        ((Z, Y, None, [True, False]), ValueError, r"where of shape \(2,\) does not broadcast"),
        ((Z, Y, None, [True] * 3), ValueError, "to leave out samples, use sample_weight"),
        ((np.float32(1), Y), ValueError, "logits must have a class axis"),
    ],
)
def test_arguments_that_do_not_fit_raise_in_jax(arguments, error, message):
    f = bridge.function(fastce.SoftmaxCrossEntropy())
    with pytest.raises(error, match=message):
        f(*arguments)


class Derived(fastce.BCEWithLogits):
    pass


def test_only_losses_of_the_library_become_functions():
    for value in ("cross entropy", fastce.SoftmaxCrossEntropy, None, Derived()):
        with pytest.raises(TypeError, match="loss must be one of the library's"):
            bridge.function(value)


def test_functions_are_values():
    ce = bridge.function(fastce.SoftmaxCrossEntropy(weight=[1.0, 2.0]))
    same = pickle.loads(pickle.dumps(ce))
    assert same == ce == bridge.function(fastce.SoftmaxCrossEntropy(weight=np.array([1, 2])))
    assert hash(same) == hash(ce)
    assert same.loss == fastce.SoftmaxCrossEntropy(weight=[1, 2])
    assert ce != bridge.function(fastce.SoftmaxCrossEntropy(weight=[1.0, 3.0]))
    assert ce != ce.loss
    assert repr(ce) == "fastce.jax.function(SoftmaxCrossEntropy(weight=[1.0, 2.0]))"
    np.testing.assert_allclose(same(jnp.zeros((1, 2)), [1]), np.log(2), rtol=1e-6)


@pytest.mark.parametrize("rows", [0, 5])
def test_jax_empty_batches(rows):
    f = jax.value_and_grad(bridge.function(fastce.SoftmaxCrossEntropy(reduction="sum")))
    loss, grad = f(jnp.zeros((rows, 1)), jnp.zeros(rows, int))
    assert loss == 0
    assert grad.shape == (rows, 1)
    assert not grad.any()
