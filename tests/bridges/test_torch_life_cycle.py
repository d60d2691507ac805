"""What a training script does with the modules of fastce.torch besides calling them."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as functional  # noqa: E402
from torch_calls import Model, data, logits_of, train  # noqa: E402

import fastce.torch as bridge  # noqa: E402


def modules():
    """Each module with options that are not the defaults, and a target for logits (6, 5)."""
    weight, labels, halves = torch.linspace(0.5, 1.5, 5), torch.arange(6) % 5, torch.rand(6, 5)
    scaled = {"z_loss": 0.1, "logit_scale": 0.5, "softcap": 9.0}
    yield bridge.CrossEntropyLoss(weight, label_smoothing=0.1, reduction="sum", **scaled), labels
    yield bridge.SoftmaxFocalLoss(1.5, weight, ignore_index=1, reduction="sum"), labels
    yield bridge.BCEWithLogitsLoss(weight, pos_weight=weight, reduction="sum"), halves
    yield bridge.SigmoidFocalLoss(1.5, weight / 2, 0.1, reduction="sum"), halves
    yield bridge.SigmoidFocalLoss(1.5, None, 0.1, reduction="sum"), halves


def by_torch_save(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), by_torch_save],
    ids=["copy", "deepcopy", "pickle", "torch.save"],
)
def test_torch_modules_are_copied_with_their_options(copied):
    logits = torch.randn(6, 5)
    for module, target in modules():
        again = copied(module)
        assert type(again) is type(module)
        assert torch.equal(again(logits, target), module(logits, target))
        if copied is not copy.copy:
            for ours, theirs in zip(module.buffers(), again.buffers(), strict=True):
                assert ours.data_ptr() != theirs.data_ptr()


def test_torch_state_dicts_load_safely():
    """With torch.load's default, which loads only tensors, into a module with other weights."""
    logits = torch.randn(6, 5)
    for module, target in modules():
        expected = module(logits, target)
        file = io.BytesIO()
        torch.save(module.state_dict(), file)
        file.seek(0)
        for buffer in module.buffers():
            buffer.mul_(0.5)
        assert not list(module.buffers()) or not torch.equal(module(logits, target), expected)
        module.load_state_dict(torch.load(file))
        assert torch.equal(module(logits, target), expected)


def test_torch_modules_take_a_type_with_the_model():
    """Their buffers go to float64 and bfloat16, and what they compute goes with the logits."""
    for dtype in (torch.float64, torch.bfloat16):
        for module, target in modules():
            logits = torch.randn(6, 5, dtype=dtype)
            target = target if target.dtype == torch.int64 else target.to(dtype)
            wide = target if target.dtype == torch.int64 else target.float()
            expected = module(logits.float(), wide)
            loss = module.to(dtype)(logits, target)
            assert loss.dtype == dtype
            # Weights and the result are rounded to bfloat16, by 2⁻⁹ each.
            rtol = 3 * 2.0**-9 if dtype == torch.bfloat16 else 1e-6
            torch.testing.assert_close(loss.float(), expected, rtol=rtol, atol=0)


class Batches(torch.utils.data.Dataset):
    """Features and labels, each with its loss, which the loading process computes."""

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.features = torch.randn(32, 5, generator=generator)
        self.labels = torch.randint(0, 5, (32,), generator=generator)
        self.loss = bridge.CrossEntropyLoss(torch.linspace(0.5, 1.5, 5))

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        features, label = self.features[index], self.labels[index]
        leaf = features.clone().requires_grad_()
        loss = self.loss(leaf, label)
        loss.backward()
        return features, label, loss.detach(), leaf.grad


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*fork.*:RuntimeWarning")  # if the run has imported JAX
def test_torch_losses_in_a_data_loader(start):
    """Their tensors, gradients among them, come back through shared memory."""
    data = Batches()
    large = torch.randn(20000, 50)
    bridge.cross_entropy(large, torch.zeros(20000, dtype=torch.int64))  # starts threads to fork
    loader = torch.utils.data.DataLoader(
        data, batch_size=8, num_workers=1, multiprocessing_context=start
    )
    seen = 0
    for features, labels, losses, grads in loader:
        for row, label, loss, grad in zip(features, labels, losses, grads, strict=True):
            leaf = row.clone().requires_grad_()
            expected = functional.cross_entropy(leaf, label, data.loss.weight)
            expected.backward()
            torch.testing.assert_close(loss, expected.detach())
            torch.testing.assert_close(grad, leaf.grad)
            seen += 1
    assert seen == 32


def test_torch_training_goes_on_from_a_checkpoint():
    weight = torch.linspace(0.5, 1.5, 5)
    model = Model(bridge.CrossEntropyLoss(weight, label_smoothing=0.1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    start, *_ = train(model, optimizer, 10)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    *_, end = train(model, optimizer, 10)
    for loss in (bridge.CrossEntropyLoss, torch.nn.CrossEntropyLoss):  # a checkpoint fits both
        file.seek(0)
        state = torch.load(file)
        other = Model(loss(torch.ones(5), label_smoothing=0.1))
        adam = torch.optim.Adam(other.parameters(), lr=0.01)
        other.load_state_dict(state["model"])
        adam.load_state_dict(state["optimizer"])
        np.testing.assert_allclose(train(other, adam, 10)[-1], end, rtol=1e-5)
    assert end < start - 0.1


def test_torch_microbatches_add_up():
    model = Model(bridge.CrossEntropyLoss())
    features, target = data()
    model(features, target).backward()
    whole = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for part in range(4):
        rows = slice(16 * part, 16 * part + 16)
        (model(features[rows], target[rows]) / 4).backward()
    for parameter, grad in zip(model.parameters(), whole, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_torch_checkpointed_losses(use_reentrant):
    """The forward pass is computed once more in the backward pass."""
    model = Model(bridge.CrossEntropyLoss())
    features, target = data()
    features.requires_grad_()
    model(features, target).backward()
    expected, features.grad = features.grad, None
    loss = torch.utils.checkpoint.checkpoint(model, features, target, use_reentrant=use_reentrant)
    loss.backward()
    torch.testing.assert_close(features.grad, expected)


def test_torch_saved_tensors_may_be_packed():
    """As by save_on_cpu: a second backward pass recomputes from the unpacked tensors."""
    logits, labels = logits_of(4, 3), torch.tensor([0, 1, 2, 0])
    packed = []

    def pack(tensor):
        packed.append(tensor.shape)
        return tensor.numpy(force=True).copy()

    with torch.autograd.graph.saved_tensors_hooks(pack, torch.from_numpy):
        loss = bridge.cross_entropy(logits, labels)
    assert packed == [logits.shape, labels.shape]
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_torch_losses_of_one_graph():
    """Two losses of the same logits, one of which is used twice: the gradients add up."""
    inner = logits_of(6, 5)
    labels, halves = torch.arange(6) % 5, torch.rand(6, 5)

    def total(softmax, binary):
        logits = 2 * inner
        loss = softmax(logits, labels)
        return torch.autograd.grad(loss + loss**2 + binary(logits, halves), inner)[0]

    ours = total(bridge.cross_entropy, bridge.binary_cross_entropy_with_logits)
    theirs = total(functional.cross_entropy, functional.binary_cross_entropy_with_logits)
    torch.testing.assert_close(ours, theirs)


def test_torch_losses_keep_no_gradient_alive():
    """A loss that is kept after its backward pass holds on to no memory of the logits' size."""
    logits = logits_of(6, 5)
    for factor in (1.0, 0.5):
        loss = bridge.cross_entropy(1 * logits, torch.arange(6) % 5)
        (grad,) = torch.autograd.grad(loss, logits, torch.tensor(factor))
        alive = weakref.ref(grad)
        del grad
        gc.collect()
        assert alive() is None
        assert loss.grad_fn.grad is None


def test_torch_default_device():
    """Losses are where the logits are, and not where torch makes tensors by default."""
    logits, labels, halves = torch.randn(6, 5), torch.arange(6) % 5, torch.rand(6, 5)
    losses = [
        (bridge.cross_entropy, labels),
        (bridge.sigmoid_focal_loss, halves),
        (bridge.binary_cross_entropy_with_logits, halves),
    ]
    expected = [loss(logits, target) for loss, target in losses]
    with torch.device("meta"):
        assert [loss(logits, target) for loss, target in losses] == expected
