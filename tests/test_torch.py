"""fastce.torch against torch: values, gradients, compiled graphs, and a swapped training script."""

from __future__ import annotations

import copy
import inspect
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as functional  # noqa: E402
from torch_calls import DTYPES, assert_same, both, calls, logits_of  # noqa: E402

import fastce  # noqa: E402
import fastce.torch as bridge  # noqa: E402
from fastce import _torch_operators as operators  # noqa: E402


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(20240607)


# Cross-entropy ------------------------------------------------------------------------------------

CROSS_ENTROPY_OPTIONS = [
    {},
    {"label_smoothing": 0.1},
    {"weight": True},
    {"weight": True, "label_smoothing": 0.2, "ignore_index": 3},
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("options", CROSS_ENTROPY_OPTIONS, ids=repr)
@pytest.mark.parametrize("shape", [(40, 7), (3, 7, 5, 4), (7,)], ids=str)
def test_cross_entropy_is_torchs(shape, options, reduction, dtype):
    logits = logits_of(*shape, dtype=dtype)
    labels_shape = shape[:1] + shape[2:] if len(shape) > 1 else ()
    target = torch.randint(0, 7, labels_shape)
    if target.numel() > 9:
        target.view(-1)[::9] = options.get("ignore_index", -100)
    if "weight" in options:
        options = options | {"weight": torch.linspace(0.0, 2.0, 7).to(dtype)}
    if options.get("ignore_index") == target.flatten()[0] and target.ndim == 0:
        target = target - 1  # else nothing counts
    assert_same(
        both(
            bridge.cross_entropy,
            functional.cross_entropy,
            logits,
            target,
            reduction=reduction,
            **options,
        )
    )


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_of_probabilities_is_torchs(reduction, dtype):
    logits = logits_of(4, 7, 5, dtype=dtype)
    target = torch.rand(4, 7, 5, dtype=dtype).softmax(1)
    weight = torch.linspace(0.5, 2.0, 7, dtype=dtype)
    options = {"reduction": reduction, "label_smoothing": 0.1, "weight": weight}
    assert_same(both(bridge.cross_entropy, functional.cross_entropy, logits, target, **options))


def test_no_torch_gradient_of_other_arguments():
    logits, weight = logits_of(2, 3), torch.ones(3, requires_grad=True)
    target = torch.full((2, 3), 1 / 3, requires_grad=True)
    with pytest.raises(ValueError, match="target must be detached"):
        bridge.cross_entropy(logits, target)
    with pytest.raises(ValueError, match="weight must be detached"):
        bridge.cross_entropy(logits, torch.tensor([0, 1]), weight)
    with torch.no_grad():
        assert bridge.cross_entropy(logits, target) > 0


def test_torch_label_out_of_range():
    with pytest.raises(IndexError, match="label 3 at position 1"):
        bridge.cross_entropy(logits_of(2, 3), torch.tensor([0, 3]))


def test_all_ignored_is_torchs():
    target = torch.full((4,), -100)
    for reduction in ("mean", "sum", "none"):
        ours, theirs = both(
            bridge.cross_entropy,
            functional.cross_entropy,
            logits_of(4, 3),
            target,
            reduction=reduction,
        )
        torch.testing.assert_close(ours[0], theirs[0], equal_nan=True)
        assert not ours[1].any()


# The other losses ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_binary_cross_entropy_is_torchs(weighted, reduction, dtype):
    logits, target = logits_of(30, 6, dtype=dtype), torch.rand(30, 6).to(dtype)
    options = {"reduction": reduction}
    if weighted:
        options["weight"] = torch.linspace(0, 3, 30).to(dtype)[:, None]
        options["pos_weight"] = torch.linspace(0.5, 4, 6).to(dtype)
    ours, theirs = (
        bridge.binary_cross_entropy_with_logits,
        functional.binary_cross_entropy_with_logits,
    )
    assert_same(both(ours, theirs, logits, target, **options), scale=2)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_softmax_focal_is_its_formula_in_torch(gamma, reduction):
    logits, target = logits_of(5, 7, 3, dtype=torch.float64), torch.randint(0, 7, (5, 3))
    alpha = torch.linspace(0.5, 2.0, 7, dtype=torch.float64)

    def formula(z, target):
        log_p = -functional.cross_entropy(z, target, reduction="none")
        loss = -alpha[target] * (1 - log_p.exp()) ** gamma * log_p
        return loss if reduction == "none" else getattr(loss, reduction)()

    def ours(z, target):
        return bridge.softmax_focal_loss(z, target, gamma, alpha=alpha, reduction=reduction)

    assert_same(both(ours, formula, logits, target), scale=10)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("alpha", [None, 0.25])
def test_sigmoid_focal_is_its_formula_in_torch(alpha, reduction):
    logits, target = logits_of(5, 7, dtype=torch.float64), torch.randint(0, 2, (5, 7)).double()

    def formula(z, y):
        p = z.sigmoid()
        loss = functional.binary_cross_entropy_with_logits(z, y, reduction="none")
        loss = loss * (p * (1 - y) + (1 - p) * y) ** 2
        if alpha is not None:
            loss = loss * (alpha * y + (1 - alpha) * (1 - y))
        return loss if reduction == "none" else getattr(loss, reduction)()

    def ours(z, y):
        return bridge.sigmoid_focal_loss(z, y, gamma=2.0, alpha=alpha, reduction=reduction)

    assert_same(both(ours, formula, logits, target), scale=10)


# Deprecated arguments -----------------------------------------------------------------------------

FLAGS = [None, False, True]


@pytest.mark.parametrize("reduce", FLAGS)
@pytest.mark.parametrize("size_average", FLAGS)
@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy_with_logits"])
def test_torchs_deprecated_arguments(name, size_average, reduce):
    """By name and by position, in functions and modules: torch's result and torch's warning."""
    module = {"cross_entropy": "CrossEntropyLoss"}.get(name, "BCEWithLogitsLoss")
    logits, weight = logits_of(6, 5), torch.linspace(0.5, 1.5, 5)
    if name == "cross_entropy":
        target = torch.tensor([0, 4, 3, 2, 1, 3])
        by_position = weight, size_average, 3, reduce, "mean", 0.1
        by_name = {"ignore_index": 3, "label_smoothing": 0.1}
    else:
        target = torch.rand(6, 5)
        by_position = weight, size_average, reduce, "mean", weight
        by_name = {"pos_weight": weight}
    by_name |= {"weight": weight, "size_average": size_average, "reduce": reduce}

    def outcomes(functions, modules):
        function, cls = getattr(functions, name), getattr(modules, module)
        for call in (
            lambda z, y: function(z, y, *by_position),
            lambda z, y: function(z, y, **by_name),
            lambda z, y: cls(*by_position)(z, y),
            lambda z, y: cls(**by_name)(z, y),
        ):
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                loss = call(logits, target)
            yield loss, [(warning.category, str(warning.message)) for warning in caught]

    pairs = list(zip(outcomes(bridge, bridge), outcomes(functional, torch.nn), strict=True))
    assert len(pairs) == 4
    for (loss, caught), (expected, torchs) in pairs:
        torch.testing.assert_close(loss, expected)
        assert caught == torchs
        assert len(caught) == (size_average is not None or reduce is not None)


def test_torchs_arguments_in_torchs_order():
    for ours, theirs in (
        (bridge.cross_entropy, functional.cross_entropy),
        (bridge.binary_cross_entropy_with_logits, functional.binary_cross_entropy_with_logits),
        (bridge.CrossEntropyLoss, torch.nn.CrossEntropyLoss),
        (bridge.BCEWithLogitsLoss, torch.nn.BCEWithLogitsLoss),
    ):
        ours, theirs = (
            [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]
            for f in (ours, theirs)
        )
        assert ours == theirs


# What torch asks of an operator -------------------------------------------------------------------


def test_torch_opcheck():
    for name, logits, target, options in calls(torch.float64):
        operator = getattr(torch.ops.fastce, name)
        if options[-1] == "mean" or (options[-1] == "none" and logits.ndim == 3):
            torch.library.opcheck(operator, (logits, target, *options, torch.float64, True))
    half = logits_of(6, 5, dtype=torch.float16)
    arguments = torch.tensor([0, 4, -100, 2, 1, 3]), None, -100, 0.0, "mean"
    operator = torch.ops.fastce.softmax_cross_entropy
    torch.library.opcheck(operator, (half, *arguments, torch.float32, True))
    torch.library.opcheck(operator, (half.detach(), *arguments, torch.float16, False))


def by_operator(name, logits, target, *options):
    return getattr(torch.ops.fastce, name)(logits, target, *options, logits.dtype, True)[0]


def past_the_dispatcher(name, logits, target, *options):
    """Call as the functions do, which go past torch's dispatcher where they can."""
    loss = operators.apply(getattr(operators, name), logits, target, *options)
    assert not loss.grad_fn.name().startswith("Generated")
    return loss


ways = pytest.mark.parametrize("loss_by", [by_operator, past_the_dispatcher])


@ways
def test_torch_gradcheck(loss_by):
    for name, logits, target, options in calls(torch.float64):

        def loss(z, name=name, target=target, options=options):
            return loss_by(name, z, target, *options)

        assert torch.autograd.gradcheck(loss, (logits,))


@ways
def test_second_torch_derivative_raises(loss_by):
    for name, logits, target, options in calls(torch.float32):
        loss = loss_by(name, logits, target, *options).sum()
        with pytest.raises(RuntimeError, match=f"{name} has no second derivative"):
            torch.autograd.grad(loss, logits, create_graph=True)


@ways
def test_torch_backward_twice(loss_by):
    logits, labels = logits_of(4, 3), torch.tensor([0, 1, 2, 0])
    loss = loss_by("softmax_cross_entropy", logits, labels, None, -100, 0.0, "mean")
    first, second, third = (
        torch.autograd.grad(loss, logits, torch.tensor(factor), retain_graph=True)[0].clone()
        for factor in (1.0, 3.0, 1.0)
    )
    torch.testing.assert_close(second, 3 * first)
    assert torch.equal(first, third)
    for _ in range(3):  # what is added up in logits.grad must not be what is saved
        loss.backward(retain_graph=True)
    torch.testing.assert_close(logits.grad, 3 * first)


@ways
def test_torch_batch_of_gradients(loss_by):
    """torch's vmap, old and new, goes over the backward pass: grad_output has several values."""
    logits, labels = logits_of(4, 3), torch.tensor([0, 1, 2, 0])
    for reduction, factors in (("mean", torch.tensor([1.0, 2.0])), ("none", torch.eye(4))):
        loss = loss_by("softmax_cross_entropy", logits, labels, None, -100, 0.0, reduction)

        def grad(factor, loss=loss, **options):
            return torch.autograd.grad(loss, logits, factor, retain_graph=True, **options)[0]

        expected = torch.stack([grad(factor) for factor in factors])
        assert torch.equal(grad(factors, is_grads_batched=True), expected)
        assert torch.equal(torch.vmap(grad)(factors), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torch_bits_do_not_depend_on_the_dispatcher(dtype):
    for name, logits, target, options in calls(dtype):
        contiguous = logits.detach()
        for tensor in (contiguous, contiguous.mT.contiguous().mT):
            results = []
            for loss_by in (by_operator, past_the_dispatcher):
                leaf = tensor.detach().requires_grad_()
                loss = loss_by(name, leaf, target, *options)
                factor = torch.linspace(1.0, 2.0, loss.numel(), dtype=dtype).reshape(loss.shape)
                loss.backward(factor)
                results.append((loss.detach(), leaf.grad))
            (loss, grad), (expected, expected_grad) = results
            assert torch.equal(loss, expected)
            assert torch.equal(grad, expected_grad)
            assert grad.stride() == expected_grad.stride()
            alone = operators.apply(getattr(operators, name), tensor, target, *options)
            assert torch.equal(alone, expected)


class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


class FunctionRecorder(torch.overrides.TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.filterwarnings("ignore")  # of torch.jit
def test_torch_modes_and_transforms_see_the_operator():
    logits, target = torch.randn(6, 5), torch.randint(0, 5, (6,))
    expected = bridge.cross_entropy(logits, target)
    for mode in (Recorder(), FunctionRecorder()):
        with mode:
            assert torch.equal(bridge.cross_entropy(logits, target), expected)
        assert any("fastce" in name for name in mode.names)
    traced = torch.jit.trace(lambda z: bridge.cross_entropy(z, target), logits)
    assert "fastce::softmax_cross_entropy" in str(traced.graph)
    assert torch.equal(traced(logits), expected)
    rows = torch.vmap(bridge.cross_entropy)(logits[:, None], target[:, None])
    assert torch.equal(rows, bridge.cross_entropy(logits, target, reduction="none"))
    leaf = torch.nn.Parameter(logits)
    assert bridge.cross_entropy(leaf, target).grad_fn.name().startswith("Generated")


def test_torch_tensors_without_values():
    meta = torch.empty(6, 5, device="meta", requires_grad=True)
    labels = torch.zeros(6, dtype=torch.int64)
    for reduction in ("mean", "none"):
        bridge.cross_entropy(meta, labels, reduction=reduction).sum().backward()
        assert meta.grad.shape == meta.shape
    with torch._subclasses.FakeTensorMode() as mode:
        fake = mode.from_tensor(torch.zeros(6, 5)).requires_grad_()
        loss = bridge.cross_entropy(fake, mode.from_tensor(labels))
        loss.backward()
        assert fake.grad.shape == fake.shape
    with pytest.raises(ValueError, match="target must be a tensor on the CPU, got one on meta"):
        bridge.cross_entropy(torch.zeros(6, 5), labels.to("meta"))
    with pytest.raises(ValueError, match="a weight must be a tensor on the CPU"):
        bridge.cross_entropy(torch.zeros(6, 5), labels, torch.ones(5, device="meta"))


def test_torch_arguments_of_other_types_are_converted_or_refused():
    logits, target = torch.randn(6, 5), torch.randint(0, 5, (6,))
    expected = bridge.cross_entropy(logits, target, ignore_index=2)
    for ignored in (np.int64(2), torch.tensor(2)):
        assert torch.equal(bridge.cross_entropy(logits, target, ignore_index=ignored), expected)
    with pytest.raises(RuntimeError, match="type 'int' for argument 'ignore_index'"):
        bridge.cross_entropy(logits, target, ignore_index=1.5)
    with pytest.raises(RuntimeError, match="type 'Tensor' for argument 'target'"):
        bridge.cross_entropy(logits, target.tolist())
    with pytest.raises(NotImplementedError, match="SparseCPU"):
        bridge.cross_entropy(logits.to_sparse(), target)


def test_torch_inference_mode():
    with torch.inference_mode():
        logits, target = torch.randn(6, 5), torch.randint(0, 5, (6,))
        loss = bridge.cross_entropy(logits, target)
    assert loss.is_inference()
    torch.testing.assert_close(loss.clone(), functional.cross_entropy(logits, target))


def test_torch_saves_no_gradient_that_nobody_wants():
    logits, target = logits_of(4, 3), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        loss = bridge.cross_entropy(logits, target)
    assert not loss.requires_grad
    assert not bridge.cross_entropy(logits.detach(), target).requires_grad
    assert torch.equal(loss, bridge.cross_entropy(logits, target).detach())


def test_torch_reads_strided_tensors():
    logits = torch.randn(5, 4, 6)
    target = torch.randint(0, 6, (4, 5))
    for view in (
        logits.permute(1, 2, 0),
        torch.randn(8, 12, 5)[::2, ::2],
        torch.randn(1, 6, 5).expand(4, 6, 5),
    ):
        ours, theirs = both(bridge.cross_entropy, functional.cross_entropy, view, target)
        torch.testing.assert_close(ours, theirs)


def test_torch_16_bit_gradients_survive_a_gradient_scaler():
    logits = (8 * torch.randn(4096, 10)).half()
    target = torch.randint(0, 10, (4096,))
    leaf = logits.clone().requires_grad_()
    (16384.0 * bridge.cross_entropy(leaf, target).float()).backward()
    double = logits.double().requires_grad_()
    (16384.0 * functional.cross_entropy(double, target)).backward()
    torch.testing.assert_close(leaf.grad.double(), double.grad, rtol=2e-3, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_torch_autocast_returns_float32(dtype, reduction):
    logits, target = torch.randn(6, 5).to(dtype), torch.randint(0, 5, (6,))
    results = []
    for function in (bridge.cross_entropy, functional.cross_entropy):
        leaf = logits.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = function(leaf, target, reduction=reduction)
        loss.sum().backward()
        results.append((loss.detach(), leaf.grad))
    assert results[0][0].dtype == torch.float32
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-2, atol=1e-5)


def test_torch_tails_are_exact():
    logits = torch.tensor([[20.0, 0.0]], requires_grad=True)
    loss = bridge.cross_entropy(logits, torch.tensor([0]))
    loss.backward()
    np.testing.assert_allclose(loss.item(), 2.0611536181902037e-09, rtol=1e-6)
    np.testing.assert_allclose(logits.grad[0, 0].item(), -2.0611536181902037e-09, rtol=1e-6)


def test_torch_bfloat16_is_not_copied():
    for dtype in DTYPES:
        tensor = torch.zeros(3, dtype=dtype)
        array = operators._array(tensor)
        assert array.dtype.name == str(dtype).removeprefix("torch.")
        assert array.__array_interface__["data"][0] == tensor.data_ptr()


# Modules, compiled graphs and training ------------------------------------------------------------


def test_torch_modules_have_torchs_state():
    weight = torch.linspace(0.5, 1.5, 5)
    ours = bridge.CrossEntropyLoss(weight, ignore_index=1, label_smoothing=0.1)
    theirs = torch.nn.CrossEntropyLoss(weight, ignore_index=1, label_smoothing=0.1)
    ours.load_state_dict(theirs.state_dict())
    assert repr(ours) == repr(theirs)
    logits, target = logits_of(6, 5), torch.randint(0, 5, (6,))
    assert_same(both(ours, theirs, logits, target))
    binary = {"pos_weight": weight, "weight": weight, "reduction": "sum"}
    ours, theirs = bridge.BCEWithLogitsLoss(**binary), torch.nn.BCEWithLogitsLoss(**binary)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert_same(both(ours, theirs, logits, torch.rand(6, 5)))


def test_torch_focal_modules():
    logits, target = logits_of(6, 5), torch.randint(0, 5, (6,))
    alpha = torch.linspace(0.5, 1.5, 5)
    softmax = bridge.SoftmaxFocalLoss(1.5, alpha, reduction="sum")
    assert "alpha" in softmax.state_dict()
    array, labels = logits.detach().numpy(), target.numpy()
    expected = fastce.SoftmaxFocalLoss(gamma=1.5, alpha=alpha.numpy(), reduction="sum")
    np.testing.assert_allclose(softmax(logits, target).item(), expected(array, labels), rtol=1e-6)
    sigmoid = bridge.SigmoidFocalLoss(gamma=1.0, alpha=0.4, label_smoothing=0.1)
    halves = functional.one_hot(target, 5).float()
    expected = fastce.SigmoidFocalLoss(gamma=1.0, alpha=0.4, label_smoothing=0.1)
    np.testing.assert_allclose(
        sigmoid(logits, halves).item(), expected(array, halves.numpy()), rtol=1e-6
    )


def network():
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 5))


def train(model, loss, steps=30):
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(64, 8, generator=generator)
    target = torch.randint(0, 5, (64,), generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    history = []
    for _ in range(steps):
        optimizer.zero_grad()
        value = loss(model(features), target)
        value.backward()
        optimizer.step()
        history.append(value.item())
    return history


def test_swapping_torchs_loss_changes_nothing():
    model = network()
    ours = train(copy.deepcopy(model), bridge.CrossEntropyLoss(label_smoothing=0.1))
    theirs = train(copy.deepcopy(model), torch.nn.CrossEntropyLoss(label_smoothing=0.1))
    assert ours[-1] < ours[0] - 0.1
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.filterwarnings("ignore")
def test_torch_compile(backend):
    model, loss = network(), bridge.CrossEntropyLoss(label_smoothing=0.1)
    expected = train(copy.deepcopy(model), loss, steps=5)

    def whole(model):
        return torch.compile(
            lambda features, target: loss(model(features), target), backend=backend, fullgraph=True
        )

    model = copy.deepcopy(model)
    compiled = whole(model)
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(64, 8, generator=generator)
    target = torch.randint(0, 5, (64,), generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    history = []
    for _ in range(5):
        optimizer.zero_grad()
        value = compiled(features, target)
        value.backward()
        optimizer.step()
        history.append(value.item())
    np.testing.assert_allclose(history, expected, rtol=1e-5)
