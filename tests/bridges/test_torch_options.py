"""What fastce.torch takes beyond torch's own arguments: against formulas in torch."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as functional  # noqa: E402
from torch_calls import BINARY_CROSS_ENTROPIES, assert_same, both, logits_of  # noqa: E402

import fastce  # noqa: E402
import fastce.torch as bridge  # noqa: E402


def reduced(losses, reduction, count=None):
    if reduction == "none":
        return losses
    return losses.sum() / (1 if reduction == "sum" else count)


def assert_as_formula(formula, function, module, logits, target, *, where=None, **options):
    """Check a function and its module, which take the same options."""

    def by_function(z, y):
        return function(z, y, where=where, **options)

    def by_module(z, y):
        return module(**options)(z, y, where)

    for ours in (by_function, by_module):
        assert_same(both(ours, formula, logits, target), scale=10)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("softcap", [None, 2.5])
def test_torch_cross_entropy_of_scaled_logits(softcap, soft, reduction):
    logits = logits_of(4, 7, 5, dtype=torch.float64)
    target = (
        torch.rand(4, 7, 5, dtype=torch.float64).softmax(1) if soft else torch.randint(7, (4, 5))
    )
    options = {"z_loss": 0.2, "logit_scale": 0.7, "softcap": softcap}

    def formula(z, target):
        u = 0.7 * z if softcap is None else softcap * torch.tanh(0.7 * z / softcap)
        losses = functional.cross_entropy(u, target, reduction="none") + 0.2 * u.logsumexp(1) ** 2
        return reduced(losses, reduction, 20)

    ours = bridge.cross_entropy, bridge.CrossEntropyLoss
    assert_as_formula(formula, *ours, logits, target, reduction=reduction, **options)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("gamma", [None, 2.0])
def test_torch_softmax_losses_of_some_classes(gamma, reduction):
    """A class that does not take part is one whose logit is −inf."""
    logits, target = logits_of(6, 5, 3, dtype=torch.float64), torch.randint(0, 2, (6, 3))
    where = torch.rand(6, 5, 1) < 0.5
    where[:, :2] = True

    def formula(z, target):
        losses = functional.cross_entropy(
            z.masked_fill(~where, -torch.inf), target, reduction="none"
        )
        if gamma is not None:
            losses = (1 - (-losses).exp()) ** gamma * losses
        return reduced(losses, reduction, 18)

    ours, options = (bridge.cross_entropy, bridge.CrossEntropyLoss), {"reduction": reduction}
    if gamma is not None:
        ours, options["gamma"] = (bridge.softmax_focal_loss, bridge.SoftmaxFocalLoss), gamma
    assert_as_formula(formula, *ours, logits, target, where=where, **options)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
def test_torch_binary_cross_entropy_of_some_elements(weighted, reduction):
    """The mean is over the elements that take part; the targets of others are not checked."""
    logits, target = logits_of(6, 5, dtype=torch.float64), torch.rand(6, 5, dtype=torch.float64)
    where = torch.rand(6, 1) < 0.5
    where[0], where[1] = True, False
    target[1, 2], target[1, 3] = 255, torch.nan
    known = torch.where(where, target, 0.0)
    weight = torch.linspace(-1, 2, 5, dtype=torch.float64) if weighted else None

    def formula(z, target):
        losses = functional.binary_cross_entropy_with_logits(z, known, weight, reduction="none")
        return reduced(losses * where, reduction, 5 * int(where.sum()))

    ours = bridge.binary_cross_entropy_with_logits, bridge.BCEWithLogitsLoss
    options = {"weight": weight, "reduction": reduction}
    assert_as_formula(formula, *ours, logits, target, where=where, **options)
    nothing = torch.zeros(1, dtype=torch.bool)
    loss = bridge.binary_cross_entropy_with_logits(logits, target, weight, where=nothing)
    assert loss.isnan()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_torch_negative_weights_of_elements_are_torchs(reduction):
    """Even if their sum is negative: torch's mean does not divide by it."""
    logits, target = logits_of(6, 5), torch.rand(6, 5)
    for weight in (torch.tensor(-0.5), torch.linspace(-2, 1, 5), -torch.rand(6, 1)):
        options = {"weight": weight, "reduction": reduction}
        assert_same(both(*BINARY_CROSS_ENTROPIES, logits, target, **options), scale=4)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_torch_sigmoid_focal_alpha_of_each_class(reduction):
    """Also with a mask."""
    logits, target = logits_of(6, 5, dtype=torch.float64), torch.rand(6, 5).round().double()
    where = torch.rand(6, 5) < 0.7
    for alpha in (torch.linspace(0, 1, 5), torch.rand(6, 1).double(), torch.tensor(0.3), 0.3):

        def formula(z, y, alpha=alpha):
            losses = functional.binary_cross_entropy_with_logits(z, y, reduction="none")
            p = z.sigmoid()
            losses = losses * (p * (1 - y) + (1 - p) * y) ** 2
            losses = losses * (alpha * y + (1 - alpha) * (1 - y)) * where
            return reduced(losses, reduction, int(where.sum()))

        ours = bridge.sigmoid_focal_loss, bridge.SigmoidFocalLoss
        options = {"alpha": alpha, "reduction": reduction}
        assert_as_formula(formula, *ours, logits, target, where=where, **options)


def test_torch_buffers_hold_tensors_alone():
    for focal in (bridge.SoftmaxFocalLoss, bridge.SigmoidFocalLoss):
        assert list(focal(alpha=torch.linspace(0, 1, 5)).state_dict()) == ["alpha"]
    assert not bridge.SigmoidFocalLoss(alpha=0.5).state_dict()


def test_torch_options_are_those_of_the_losses():
    """Bit for bit: the bridge only passes them on, including their defaults."""
    logits, labels = torch.randn(6, 5), torch.tensor([0, 4, 3, 2, 1, 3])
    halves, z = torch.rand(6, 5), logits.numpy()
    alpha, soft = torch.linspace(0.5, 1.5, 5), {"gamma": 1.0, "alpha": 0.4, "label_smoothing": 0.1}
    focal = fastce.SoftmaxFocalLoss(gamma=1.5, alpha=alpha.numpy(), reduction="sum")
    for ours, loss, target in (
        (bridge.cross_entropy, fastce.SoftmaxCrossEntropy(), labels),
        (bridge.softmax_focal_loss, fastce.SoftmaxFocalLoss(), labels),
        (bridge.binary_cross_entropy_with_logits, fastce.BCEWithLogits(), halves),
        (bridge.sigmoid_focal_loss, fastce.SigmoidFocalLoss(), halves),
        (bridge.SoftmaxFocalLoss(1.5, alpha, reduction="sum"), focal, labels),
        (bridge.SigmoidFocalLoss(**soft), fastce.SigmoidFocalLoss(**soft), halves),
    ):
        leaf = logits.clone().requires_grad_()
        value = ours(leaf, target)
        value.backward()
        expected, grad = loss.value_and_grad(z, target.numpy())
        assert value.item() == np.float32(expected)
        np.testing.assert_array_equal(leaf.grad.numpy(), grad)
