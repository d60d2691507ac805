"""fastce.jax against JAX's own cross-entropy, under each of JAX's transformations."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

import fastce  # noqa: E402
import fastce.jax as bridge  # noqa: E402
from fastce import _jax_call  # noqa: E402


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
    with pytest.raises(ValueError, match="cannot be differentiated"):
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


# The way into XLA ---------------------------------------------------------------------------------


def fields_in_header(name):
    """Return the names of a structure's fields as the header that JAX ships declares them."""
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text("utf-8")
    body = re.search(rf"struct {name} \{{(.+?)\n\}}", header, re.DOTALL)[1]
    body = re.sub(r"//.*", "", body)
    body = re.sub(r"_XLA_FFI_API_STRUCT_FIELD\((\w+)\)", r"void* \1", body)
    return re.findall(r"(\w+);", body)


@pytest.mark.parametrize(
    ("name", "structure"),
    [
        ("XLA_FFI_Api_Version", _jax_call.Version),
        ("XLA_FFI_Metadata", _jax_call.Metadata),
        ("XLA_FFI_Extension_Base", _jax_call.Extension),
        ("XLA_FFI_Metadata_Extension", _jax_call.MetadataExtension),
        ("XLA_FFI_Error_Create_Args", _jax_call.Error),
        ("XLA_FFI_Api", _jax_call.Api),
        ("XLA_FFI_Buffer", _jax_call.Buffer),
        ("XLA_FFI_Args", _jax_call.Arguments),
        ("XLA_FFI_Rets", _jax_call.Results),
        ("XLA_FFI_Scalar", _jax_call.Scalar),
        ("XLA_FFI_Attrs", _jax_call.Attributes),
        ("XLA_FFI_CallFrame", _jax_call.CallFrame),
    ],
)
def test_structures_are_xlas(name, structure):
    parents = [*reversed(structure.__mro__)]
    fields = [field for parent in parents for field, _ in vars(parent).get("_fields_", ())]
    assert len(fields) > 1
    assert fields == fields_in_header(name)[: len(fields)]  # more may follow in later versions


def test_xlas_version_is_the_one_that_is_known():
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text("utf-8")
    assert int(re.search(r"define XLA_FFI_API_MAJOR (\d+)", header)[1]) == _jax_call.API_MAJOR


@pytest.mark.parametrize("dtype", _jax_call.TYPES.values(), ids=str)
def test_xla_hands_over_every_type(dtype, double):
    given = np.arange(6).reshape(2, 3).astype(dtype)
    seen = []

    def copy(rank, arrays, results):
        seen.append((rank, arrays[0].copy()))
        results[0][...] = arrays[0]

    (returned,) = _jax_call.call(_jax_call.register(copy), 2, [((2, 3), dtype)], given)
    assert returned.dtype == dtype
    np.testing.assert_array_equal(returned, given)
    ((rank, array),) = seen
    assert rank == 2
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, given)


def test_an_error_goes_through_xla():
    def fail(rank, arrays, results):
        raise MemoryError("no room")

    number = _jax_call.register(fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match="MemoryError: no room"):
        jax.block_until_ready(_jax_call.call(number, 1, [((2,), np.float32)], jnp.zeros(2)))


@pytest.mark.parametrize("rows", [0, 5])
def test_jax_empty_batches(rows):
    f = jax.value_and_grad(bridge.function(fastce.SoftmaxCrossEntropy(reduction="sum")))
    loss, grad = f(jnp.zeros((rows, 1)), jnp.zeros(rows, int))
    assert loss == 0
    assert grad.shape == (rows, 1)
    assert not grad.any()


ON_ONE_CPU = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import jax, jax.numpy as jnp, numpy as np
import fastce, fastce.jax
logits = jnp.asarray(np.random.default_rng(0).normal(size=(1024, 32000)).astype(np.float32))
target = jnp.zeros(1024, int)
step = jax.jit(jax.value_and_grad(fastce.jax.function(fastce.SoftmaxCrossEntropy())))
for _ in range(3):
    loss, grad = jax.block_until_ready(step(logits, target))
expected = fastce.SoftmaxCrossEntropy()(np.asarray(logits), np.asarray(target))
assert np.allclose(loss, expected), (loss, expected)
step(logits, target)  # and leave while it runs
print("done")
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="not on this system")
def test_jax_needs_no_second_cpu():
    finished = subprocess.run(
        [sys.executable, "-c", ON_ONE_CPU],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "done\n"
