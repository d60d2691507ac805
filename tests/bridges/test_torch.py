"""fastce.torch against torch: values, gradients, compiled graphs, and a swapped training script."""

from __future__ import annotations

import copy
import inspect
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as functional  # noqa: E402
from torch_calls import (  # noqa: E402
    BINARY_CROSS_ENTROPIES,
    CROSS_ENTROPIES,
    DTYPES,
    Model,
    assert_same,
    both,
    logits_of,
    train,
)

import fastce.torch as bridge  # noqa: E402
from fastce.torch import _operators as operators  # noqa: E402

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
        target = target - 1  # otherwise nothing counts
    assert_same(both(*CROSS_ENTROPIES, logits, target, reduction=reduction, **options))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_of_probabilities_is_torchs(reduction, dtype):
    logits = logits_of(4, 7, 5, dtype=dtype)
    target = torch.rand(4, 7, 5, dtype=dtype).softmax(1)
    weight = torch.linspace(0.5, 2.0, 7, dtype=dtype)
    options = {"reduction": reduction, "label_smoothing": 0.1, "weight": weight}
    assert_same(both(*CROSS_ENTROPIES, logits, target, **options))


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
        ours, theirs = both(*CROSS_ENTROPIES, logits_of(4, 3), target, reduction=reduction)
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
    assert_same(both(*BINARY_CROSS_ENTROPIES, logits, target, **options), scale=2)


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
        CROSS_ENTROPIES,
        BINARY_CROSS_ENTROPIES,
        (bridge.CrossEntropyLoss, torch.nn.CrossEntropyLoss),
        (bridge.BCEWithLogitsLoss, torch.nn.BCEWithLogitsLoss),
    ):
        ours, theirs = (
            [(p.name, p.kind, p.default) for p in inspect.signature(f).parameters.values()]
            for f in (ours, theirs)
        )
        assert ours[: len(theirs)] == theirs
        assert all(kind is inspect.Parameter.KEYWORD_ONLY for _, kind, _ in ours[len(theirs) :])


# Arguments --------------------------------------------------------------------------------------


def test_torch_arguments_of_other_types_are_converted_or_refused():
    logits, target = torch.randn(6, 5), torch.randint(0, 5, (6,))
    expected = bridge.cross_entropy(logits, target, ignore_index=2, label_smoothing=0.5)
    for ignored, half in ((np.int64(2), np.float32(0.5)), (torch.tensor(2), torch.tensor(0.5))):
        loss = bridge.cross_entropy(logits, target, ignore_index=ignored, label_smoothing=half)
        assert torch.equal(loss, expected)
    halves, eighth = torch.rand(6, 5), torch.float8_e5m2
    focal, sigmoid = bridge.softmax_focal_loss, bridge.sigmoid_focal_loss
    binary = bridge.binary_cross_entropy_with_logits
    for call, message in (
        (
            lambda: bridge.cross_entropy(logits.numpy(), target),
            "input must be a .*tensor.* ndarray",
        ),
        (lambda: bridge.cross_entropy(logits, target.tolist()), "target must be a .*tensor.* list"),
        (lambda: bridge.cross_entropy(logits, None), "target must be a torch tensor, got NoneType"),
        (lambda: bridge.cross_entropy(logits, target, [1.0] * 5), "weight must be a .* got list"),
        (lambda: bridge.cross_entropy(logits, target, where=[True]), "where must be .* got list"),
        (lambda: bridge.cross_entropy(logits, target, ignore_index=1.5), "ignore_index .* integer"),
        (lambda: bridge.cross_entropy(logits, target, label_smoothing="a"), "label_smoothing must"),
        (lambda: bridge.cross_entropy(logits, target, softcap=[1.0]), "softcap must be a real"),
        (lambda: bridge.cross_entropy(logits.to(torch.complex64), target), "input must be float16"),
        (lambda: bridge.cross_entropy(target[:, None], target), "input must be float16, .*int64"),
        (lambda: bridge.cross_entropy(logits, target, torch.ones(5).cfloat()), "weight .* complex"),
        (lambda: bridge.cross_entropy(logits, target, torch.ones(5).to(eighth)), "weight .*float8"),
        (lambda: binary(logits, halves.to(eighth)), "target must be of a type that NumPy .*float8"),
        (lambda: binary(logits, halves, halves.to(eighth)), "weight must be of .*float8"),
        (lambda: sigmoid(logits, halves, alpha=halves.to(eighth)), "alpha must be of .*float8"),
        (lambda: binary(logits, halves, where=halves.to(eighth)), "where must be of .*float8"),
        (lambda: focal(logits, target, alpha=0.5), "alpha must be a torch tensor, got float"),
        (lambda: focal(logits, target, alpha=[0.5] * 5), "alpha must be a torch tensor, got list"),
        (lambda: bridge.SoftmaxFocalLoss(alpha=[0.5]), "alpha must be a torch tensor, got list"),
        (lambda: bridge.CrossEntropyLoss(weight=[0.5]), "weight must be a torch tensor, got list"),
        (lambda: bridge.BCEWithLogitsLoss(pos_weight=2.0), "pos_weight .* tensor, got float"),
        (lambda: binary(logits, halves, pos_weight=2.0), "pos_weight must be a .* got float"),
        (
            lambda: sigmoid(logits, halves, alpha=[0.5]),
            "alpha must be a number, a .*tensor or None",
        ),
        (lambda: bridge.SigmoidFocalLoss(alpha="half"), "alpha must be a number, a .*tensor or"),
        (lambda: binary(logits, halves, halves, where=halves), "where must be bool, got float32"),
        (lambda: sigmoid(logits, halves, gamma=None), "gamma must be a real number, got None"),
        (lambda: binary(logits, halves, halves.cfloat()), "^weight must be real numbers, got comp"),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    for call, message in (
        (lambda: bridge.cross_entropy(logits.to_sparse(), target), "input must be a dense tensor"),
        (lambda: bridge.cross_entropy(logits, target, reduction="all"), "reduction must be 'mean'"),
        (lambda: bridge.cross_entropy(logits, target, softcap=-1.0), "softcap must be finite and"),
        (lambda: binary(logits, halves, halves, where=halves[1:] > 0), "where of shape"),
        (lambda: binary(logits, halves, halves[1:]), "^weight of shape .* does not broadcast"),
        (lambda: binary(logits, halves, halves.log().log()), "^weight must be finite, got nan"),
        (lambda: sigmoid(logits, halves, alpha=1.5), r"alpha must .*\[0, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
def test_torch_nested_tensors_are_refused(layout):
    nested = torch.nested.nested_tensor([torch.ones(2, 5), torch.ones(3, 5)], layout=layout)
    plain = torch.ones(5, 5)
    for name, tensors in (("input", (nested, plain)), ("target", (plain, nested))):
        with pytest.raises(ValueError, match=f"{name} must be a dense tensor, got a nested one"):
            bridge.cross_entropy(*tensors)


def test_torch_results_have_the_dtype_of_the_input():
    """torch promotes 16-bit logits to the type of a floating-point target."""
    logits, target = torch.randn(6, 5).half(), torch.rand(6, 5)
    for ours, theirs in (CROSS_ENTROPIES, BINARY_CROSS_ENTROPIES):
        assert ours(logits, target).dtype == torch.float16
        assert theirs(logits, target).dtype == torch.float32


def test_torch_probabilities_have_no_label_to_ignore():
    """torch refuses it, too."""
    logits, target = torch.randn(6, 5), torch.rand(6, 5)
    for ignored in (0, 7):
        with pytest.raises(ValueError, match="ignore_index must be negative with"):
            bridge.cross_entropy(logits, target, ignore_index=ignored)
        with pytest.raises(RuntimeError, match="ignore_index is not supported"):
            functional.cross_entropy(logits, target, ignore_index=ignored)
    assert_same(both(*CROSS_ENTROPIES, logits, target, ignore_index=-1))


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
        ours, theirs = both(*CROSS_ENTROPIES, view, target)
        torch.testing.assert_close(ours, theirs)


def test_torch_16_bit_gradients_survive_a_gradient_scaler():
    logits = (8 * torch.randn(4096, 10)).half()
    target = torch.randint(0, 10, (4096,))
    leaf = logits.clone().requires_grad_()
    (16384.0 * bridge.cross_entropy(leaf, target).float()).backward()
    double = logits.double().requires_grad_()
    (16384.0 * functional.cross_entropy(double, target)).backward()
    torch.testing.assert_close(leaf.grad.double(), double.grad, rtol=2e-3, atol=2e-6)


@pytest.mark.filterwarnings("error")
def test_torch_sums_beyond_float32_are_infinite():
    logits, target = torch.tensor([[3e38, -3e38], [0, 0]]), torch.tensor([1, 0])
    assert_same(both(*CROSS_ENTROPIES, logits, target, reduction="sum"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_torch_autocast_returns_float32(dtype, reduction):
    logits, target = torch.randn(6, 5).to(dtype), torch.randint(0, 5, (6,))
    results = []
    for function in CROSS_ENTROPIES:
        leaf = logits.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = function(leaf, target, reduction=reduction)
        loss.sum().backward()
        results.append((loss.detach(), leaf.grad))
    assert results[0][0].dtype == torch.float32
    torch.testing.assert_close(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-2, atol=1e-5)


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


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.filterwarnings("ignore")
def test_training_is_that_of_torchs_loss_compiled_or_not(backend):
    start, histories = Model(torch.nn.CrossEntropyLoss(label_smoothing=0.1)), []
    for loss, is_compiled in (
        (torch.nn.CrossEntropyLoss, False),
        (bridge.CrossEntropyLoss, False),
        (bridge.CrossEntropyLoss, True),
    ):
        model = copy.deepcopy(start)
        model.loss = loss(label_smoothing=0.1)
        adam = torch.optim.Adam(model.parameters(), lr=0.01)
        compiled = torch.compile(model, backend=backend, fullgraph=True)
        histories.append(train(compiled if is_compiled else model, adam, 30))
    theirs, *ours = histories
    assert theirs[-1] < theirs[0] - 0.1
    np.testing.assert_allclose(ours, [theirs, theirs], rtol=1e-5)
