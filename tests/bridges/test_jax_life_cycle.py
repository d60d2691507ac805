"""What JAX does with functions, on fastce.jax: training, sharding, export, caches, processes."""

from __future__ import annotations

import os
import pickle
import sys

import numpy as np
import processes
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp  # noqa: E402

import fastce  # noqa: E402
import fastce.jax as bridge  # noqa: E402


def run(program, *arguments, **environment):
    """Return what a Python program prints."""
    return processes.printed_by(sys.executable, "-c", program, *arguments, **environment)


# Training -----------------------------------------------------------------------------------------


@pytest.fixture
def data(rng):
    features = rng.normal(size=(64, 8)).astype(np.float32)
    labels = (features @ rng.normal(size=(8, 5))).argmax(1)
    return jnp.asarray(features), jnp.asarray(labels)


def jax_cross_entropy(logits, target):
    log_p = jax.nn.log_softmax(logits)
    return -jnp.mean(jnp.take_along_axis(log_p, target[:, None], 1))


def step_of(loss, features, labels, wrap=lambda f: f):
    def step(weights, _):
        value, grad = jax.value_and_grad(wrap(lambda w: loss(features @ w, labels)))(weights)
        return weights - 0.5 * grad, value

    return step


@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint], ids=["plain", "checkpoint"])
@pytest.mark.parametrize("loop", ["jit", "scan", "donated"])
def test_training(loop, wrap, data):
    def train(loss):
        weights, step = jnp.zeros((8, 5)), step_of(loss, *data, wrap)
        if loop == "scan":
            return jax.jit(lambda w: jax.lax.scan(step, w, length=30)[1])(weights)
        compiled = jax.jit(step, donate_argnums=0 if loop == "donated" else ())
        history = []
        for _ in range(30):
            weights, value = compiled(weights, None)
            history.append(float(value))
        return np.array(history)

    ours = train(bridge.function(fastce.SoftmaxCrossEntropy()))
    assert ours[-1] < 0.5 * ours[0]
    np.testing.assert_allclose(ours, train(jax_cross_entropy), rtol=1e-5)


def test_donated_logits_are_read_before_they_are_overwritten(rng):
    ce = fastce.SoftmaxCrossEntropy()
    given, labels = rng.normal(size=(300, 70)).astype(np.float32), rng.integers(0, 70, 300)
    # The gradient has the donated array's shape and type: XLA may put it there.
    compiled = jax.jit(jax.value_and_grad(bridge.function(ce)), donate_argnums=0)
    for _ in range(3):
        logits = jnp.array(given)
        loss, grad = compiled(logits, labels)
        assert logits.is_deleted()
        expected, expected_grad = ce.value_and_grad(given, labels)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        np.testing.assert_allclose(grad, expected_grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("x64", [False, True], ids=["x64 off", "x64 on"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, "float16", "bfloat16"], ids=str)
def test_types_with_x64_on_and_off(dtype, x64, request, rng):
    given = rng.normal(size=(6, 4))
    labels = rng.integers(0, 4, 6)  # int64, which JAX makes int32 without x64
    if x64:
        request.getfixturevalue("double")
    logits = jnp.asarray(given, None if dtype == np.float64 else dtype)
    loss, grad = jax.value_and_grad(bridge.function(fastce.SoftmaxCrossEntropy()))(logits, labels)
    wide = x64 and dtype == np.float64
    assert loss.dtype == (np.float64 if wide else np.float32)
    assert grad.dtype == logits.dtype
    ours = np.asarray(grad, np.float64)
    seen = np.asarray(logits.astype(np.float32), np.float64) if not wide else given
    expected, expected_grad = fastce.reference.softmax_cross_entropy(seen, labels)[:2]
    np.testing.assert_allclose(loss, expected, rtol=1e-12 if wide else 1e-6)
    bound = 1e-13 if wide else {"bfloat16": 2**-8, "float16": 2**-11}.get(dtype, 1e-6)
    np.testing.assert_allclose(ours, expected_grad, rtol=bound)


# Devices ------------------------------------------------------------------------------------------

ON_TWO_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import fastce, fastce.jax
assert len(jax.devices()) == 2

ce = fastce.jax.function(fastce.SoftmaxCrossEntropy())
losses = fastce.jax.function(fastce.SoftmaxCrossEntropy(reduction="none"))
rng = np.random.default_rng(0)
x = rng.normal(size=(8, 3)).astype(np.float32)
w = rng.normal(size=(3, 5)).astype(np.float32)
z, y, weight = x @ w, rng.integers(0, 5, 8), rng.random(8).astype(np.float32)
grad, grad_w = jax.grad(ce)(z, y), jax.grad(lambda w: ce(x @ w, y))(w)
slope = jax.jvp(lambda z: ce(z, y), (z,), (z,))[1]

def check(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)

halves = jax.pmap(jax.value_and_grad(ce))(z.reshape(2, 4, 5), y.reshape(2, 4))
check(halves[0].mean(), ce(z, y))
check(halves[1].reshape(8, 5) / 2, grad)

for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((2,), ("b",), axis_types=(kind,))
    rows, row = NamedSharding(mesh, P("b", None)), NamedSharding(mesh, P("b"))
    zs, ys, ws = jax.device_put(z, rows), jax.device_put(y, row), jax.device_put(weight, row)
    xs = jax.device_put(x, rows)

    # Compiled code needs no more than the mesh of its arrays.
    for f in (ce, lambda z, y: losses(z, y).mean()):
        check(jax.jit(jax.grad(f))(zs, ys), grad)
        check(jax.jvp(lambda z: f(z, y), (zs,), (zs,))[1], slope)

    with jax.set_mesh(mesh):
        # Sharded arrays, whose computations XLA spreads.
        for f in (ce, lambda z, y: losses(z, y).mean()):
            for g in (jax.grad(f), jax.jit(jax.grad(f))):
                check(g(zs, ys), grad)
                check(g(zs, y), grad)
            check(jax.jvp(lambda z: f(z, ys), (zs,), (zs,))[1], slope)
        check(losses(zs, ys), losses(z, y))

        # Computations that are spread by hand.
        def sharded(f, specs, out):
            return jax.jit(jax.shard_map(f, in_specs=specs, out_specs=out))

        row, rows, whole = P("b"), P("b"), P()
        each = sharded(jax.grad(ce), (rows, row), rows)
        check(each(zs, ys) / 2, grad)
        mean = lambda z, y: jax.lax.pmean(ce(z, y), "b")
        check(sharded(mean, (rows, row), whole)(zs, ys), ce(z, y))
        check(sharded(jax.grad(mean), (rows, row), rows)(zs, ys), grad)
        # Parameters that each device has: the sum over devices is JAX's to add.
        by_w = sharded(jax.grad(lambda w, x, y: mean(x @ w, y)), (whole, rows, row), whole)
        check(by_w(w, xs, ys), grad_w)
        # Logits that each device has, of rows that each weighs differently.
        total = lambda z, weight: jax.lax.psum(losses(z, y[:4], weight).sum(), "b")
        found = sharded(jax.grad(total), (whole, row), whole)(z[:4], ws)
        check(found, jax.grad(lambda z: losses(z, y[:4], weight[:4] + weight[4:]).sum())(z[:4]))
        forward = sharded(
            lambda z, y: jax.lax.pmean(jax.jvp(lambda z: ce(z, y), (z,), (z,))[1], "b"),
            (rows, row), whole,
        )
        check(forward(zs, ys), slope)
        of_each_row = sharded(lambda z, y: jax.vmap(jax.grad(ce))(z, y), (rows, row), rows)
        check(of_each_row(zs, ys) / 8, grad)
        masked = sharded(lambda z, y: losses(z, y, None, jnp.arange(5) < 5), (rows, row), row)
        check(masked(zs, ys), losses(z, y))
print("done")
"""


@pytest.mark.skipif(not hasattr(jax, "shard_map"), reason="this JAX has no jax.shard_map")
def test_two_devices():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=2"
    assert run(ON_TWO_DEVICES, XLA_FLAGS=flags) == "done\n"


# Compiled code in other processes -----------------------------------------------------------------

EXPORT = """
import sys, jax, numpy as np
from jax import export
import fastce, fastce.jax
f = fastce.jax.function(
    fastce.SoftmaxCrossEntropy(weight=[1.0, 0.1, 3.0], label_smoothing=0.1, softcap=5.0)
)
rows, = export.symbolic_shape("rows")
struct = jax.ShapeDtypeStruct
exported = export.export(
    jax.jit(jax.value_and_grad(f)),
    disabled_checks=[export.DisabledSafetyCheck.custom_call("fastce_call")],
)(struct((rows, 3), np.float32), struct((rows,), np.int32))
with open(sys.argv[1], "wb") as file:
    file.write(exported.serialize())
"""

LOAD = """
import pickle, sys, jax, numpy as np
from jax import export
import fastce, fastce.jax
with open(sys.argv[1], "rb") as file:
    exported = export.deserialize(bytearray(file.read()))
z, y = pickle.loads(bytes.fromhex(sys.argv[2]))
# Another loss comes first in this process.
other = jax.value_and_grad(fastce.jax.function(fastce.SoftmaxFocalLoss(gamma=5.0)))(z, y)
print(pickle.dumps(jax.tree.map(np.asarray, exported.call(z, y))).hex())
"""


def test_exported_code_carries_its_loss(tmp_path, rng):
    pytest.importorskip("flatbuffers")  # JAX writes exported code with it
    run(EXPORT, tmp_path / "loss")
    ce = fastce.SoftmaxCrossEntropy(weight=[1.0, 0.1, 3.0], label_smoothing=0.1, softcap=5.0)
    for rows in (1, 17):
        z = rng.normal(size=(rows, 3)).astype(np.float32)
        y = rng.integers(0, 3, rows).astype(np.int32)
        printed = run(LOAD, tmp_path / "loss", pickle.dumps((z, y)).hex())
        loss, grad = pickle.loads(bytes.fromhex(printed))
        expected, expected_grad = ce.value_and_grad(z, y)
        np.testing.assert_allclose(loss, expected, rtol=1e-6)
        np.testing.assert_allclose(grad, expected_grad, rtol=1e-5, atol=1e-8)


def test_open_sizes_are_checked_while_jax_exports():
    export = pytest.importorskip("jax.export")
    rows, others = export.symbolic_shape("rows, others")
    f = jax.jit(bridge.function(fastce.SoftmaxCrossEntropy()))
    with pytest.raises(ValueError, match=r"target of shape .* does not fit"):
        export.export(f)(
            jax.ShapeDtypeStruct((rows, 3), np.float32), jax.ShapeDtypeStruct((others,), np.int32)
        )


def test_no_two_sizes_are_taken_for_equal_while_jax_exports():
    export = pytest.importorskip("jax.export")
    open_sizes = export.symbolic_shape(", ".join(f"n{i}" for i in range(300)))
    shapes = {str(i): (n, 1009 + i) for i, n in enumerate(open_sizes)}
    arrays = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}
    sizes = {size for array in bridge._outlines(arrays).values() for size in array.shape}
    assert len(sizes) == 600


COMPILE = """
import pickle, sys, jax, jax.numpy as jnp
from jax.experimental.serialize_executable import deserialize_and_load, serialize
import fastce, fastce.jax
logits, labels = jnp.asarray([[2.0, 0.0]]), jnp.asarray([0])
if sys.argv[2] == "write":
    f = fastce.jax.function(fastce.SoftmaxCrossEntropy(logit_scale=3.0))
    with open(sys.argv[1], "wb") as file:
        pickle.dump(serialize(jax.jit(f).lower(logits, labels).compile()), file)
else:
    fastce.jax.function(fastce.SoftmaxFocalLoss(gamma=5.0))(logits, labels)
    with open(sys.argv[1], "rb") as file:
        f = deserialize_and_load(*pickle.load(file))
    print(float(f(logits, labels)))
"""


def test_compiled_code_carries_its_loss(tmp_path):
    run(COMPILE, tmp_path / "loss", "write")
    printed = float(run(COMPILE, tmp_path / "loss", "read"))
    np.testing.assert_allclose(printed, np.log1p(np.exp(-6.0)), rtol=1e-6)


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
    assert run(ON_ONE_CPU) == "done\n"


# The end of a process, and signals ----------------------------------------------------------------


AT_THE_END = """
import sys, jax, jax.numpy as jnp, numpy as np
import fastce, fastce.jax
rng = np.random.default_rng(0)
loss = fastce.jax.function(fastce.SoftmaxCrossEntropy())
features, labels = jnp.array(rng.normal(size=(256, 64))), jnp.array(rng.integers(0, 100, 256))

@jax.jit
def step(weights):
    value, grad = jax.value_and_grad(lambda w: loss(features @ w, labels))(weights)
    return value, weights - 0.1 * grad

weights = jnp.zeros((64, 100))
for _ in range(200):
    value, weights = step(weights)
if sys.argv[1] == "dropped":
    del value, weights
if sys.argv[1] == "raised":
    raise ArithmeticError("of the program")
sys.exit(3)
"""


@pytest.mark.parametrize("end", ["left", "dropped", "raised"])
def test_a_process_ends_although_xla_has_more_to_compute(end):
    """Its threads need Python for each loss, and once waited for it forever."""
    finished = processes.run("-c", AT_THE_END, end, timeout=60)
    assert finished.returncode == (1 if end == "raised" else 3), finished.stderr
    assert ("ArithmeticError: of the program" in finished.stderr) == (end == "raised")


INTERRUPTED = """
import os, signal, threading, jax, jax.numpy as jnp, numpy as np
import fastce, fastce.jax
f = jax.jit(fastce.jax.function(fastce.SoftmaxCrossEntropy(reduction="none")))
z, y = jnp.ones((64, 1000)), jnp.zeros(64, int)
expected = np.array(f(z, y))
interrupts = 0
for turn in range(100):
    timer = threading.Timer(0.01 + 0.0003 * turn, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        while True:
            try:
                assert np.array_equal(np.array(f(z, y)), expected)
            except ValueError:  # which is how XLA reports any error
                pass
    except KeyboardInterrupt:
        interrupts += 1
print(interrupts)
"""


@pytest.mark.skipif(os.name == "nt", reason="no process can send itself an interrupt there")
def test_no_interrupt_is_lost():
    """Nor does a call that one interrupts return what its memory held before."""
    assert run(INTERRUPTED) == "100\n"
