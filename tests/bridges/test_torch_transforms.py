"""Transforms of torch.func over fastce.torch: derivatives, vmap, and what is not supported."""

from __future__ import annotations

from functools import partial

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as functional  # noqa: E402
from torch_calls import CROSS_ENTROPIES, DTYPES, assert_same, calls  # noqa: E402

import fastce.torch as bridge  # noqa: E402


def losses_of_logits(dtype=torch.float64):
    """Each of `calls` as (loss, logits, target), the target optional and the logits no leaf."""
    for loss, logits, target in calls(dtype):
        yield lambda z, y=target, loss=loss: loss(z, y), logits.detach(), target


def sum_of_squares(loss):
    return lambda z, *target: (loss(z, *target) ** 2).sum()


def plain_gradient(loss, logits, *target):
    """The gradient without torch.func; other tests compare it with torch's."""
    leaf = logits.detach().requires_grad_()
    return torch.autograd.grad(loss(leaf, *target), leaf)[0]


def test_torch_func_derivatives():
    for loss, logits, _ in losses_of_logits():
        total = sum_of_squares(loss)
        grad, value = plain_gradient(total, logits), total(logits)
        torch.testing.assert_close(torch.func.grad(total)(logits), grad)
        torch.testing.assert_close(torch.func.grad_and_value(total)(logits), (grad, value))
        losses, pullback = torch.func.vjp(loss, logits)
        torch.testing.assert_close(pullback(2 * losses)[0], grad)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_torch_func_jacobian_is_torchs(reduction):
    logits, target = torch.randn(6, 5), torch.randint(0, 5, (6,))
    ours, theirs = (
        torch.func.jacrev(partial(function, reduction=reduction))(logits, target)
        for function in CROSS_ENTROPIES
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("option", "message"),
    [({"z_loss": float("nan")}, "z_loss must be finite"), ({"softcap": float("inf")}, "softcap")],
)
def test_torch_func_options_that_are_not_finite(option, message):
    loss = partial(bridge.cross_entropy, target=torch.tensor([0]), **option)
    with pytest.raises(ValueError, match=f"^{message}"):
        torch.func.grad(loss)(torch.zeros(1, 2))


@pytest.mark.filterwarnings("error")  # torch warns of an operator without a batching rule
def test_torch_func_vmap():
    """The axis of the vmap is the logits' second one, and the targets' first."""
    for loss, logits, target in losses_of_logits():
        batch = torch.stack([logits, 2 * logits, -logits], 1)
        targets = torch.stack([target, target.flip(0), target])
        examples = list(zip(batch.unbind(1), targets, strict=True))
        of_all = torch.vmap(loss, in_dims=(1, 0))
        losses = torch.stack([loss(*example) for example in examples])
        assert torch.equal(of_all(batch, targets), losses)
        twice = torch.vmap(of_all, in_dims=(0, None))
        assert torch.equal(twice(batch.expand(2, *batch.shape), targets)[1], losses)
        assert of_all(batch[:, :0], targets[:0]).shape == (0, *losses.shape[1:])

        total, total_of_all = sum_of_squares(loss), sum_of_squares(of_all)
        grads = torch.stack([plain_gradient(total, *example) for example in examples])
        of_each = torch.vmap(torch.func.grad(total), in_dims=(1, 0))
        torch.testing.assert_close(of_each(batch, targets), grads)
        assert of_each(batch[:, :0], targets[:0]).shape == (0, *grads.shape[1:])
        grads = grads.movedim(0, 1)
        torch.testing.assert_close(torch.func.grad(total_of_all)(batch, targets), grads)
        torch.testing.assert_close(plain_gradient(total_of_all, batch, targets), grads)


def test_torch_func_vmap_over_weights():
    logits, target, weights = torch.randn(3, 4, 5), torch.randint(0, 5, (3, 4)), torch.rand(3, 5)
    ours, theirs = (torch.vmap(function)(logits, target, weights) for function in CROSS_ENTROPIES)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torch_func_gradients_of_samples_have_the_logits_type(dtype):
    logits, target = torch.randn(6, 5).to(dtype), torch.randint(0, 5, (6,))
    results = []
    for function in CROSS_ENTROPIES:
        grad, value = torch.vmap(torch.func.grad_and_value(function))(logits, target)
        results.append((value, grad))
    assert_same(results)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own, in forward mode
def test_torch_func_second_derivatives_raise():
    func = torch.func
    for loss, logits, _ in losses_of_logits():
        total = sum_of_squares(loss)
        grad = func.grad(total)

        def total_grad(z, grad=grad):
            return grad(z).sum()

        for derivative in (func.grad(total_grad), func.jacrev(grad)):
            with pytest.raises(RuntimeError, match="has no second derivative"):
                derivative(logits)
        with pytest.raises(RuntimeError, match="has no second derivative"):
            plain_gradient(total_grad, logits)
        with pytest.raises(RuntimeError, match="has no derivative in forward mode"):
            func.hessian(total)(logits)
        leaf = logits.clone().requires_grad_()
        loss_in_vmap = torch.vmap(loss)(leaf[None]).sum()
        (made,) = torch.autograd.grad(loss_in_vmap, leaf, create_graph=True)
        with pytest.raises(RuntimeError, match="has no second derivative"):
            made.sum().backward()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
def test_torch_forward_mode_raises():
    """It must: torch treats what has no forward derivative as a constant."""
    forward_ad = torch.autograd.forward_ad
    for loss, logits, _ in losses_of_logits():
        with pytest.raises(RuntimeError, match="has no derivative in forward mode"):
            torch.func.jvp(loss, (logits,), (logits,))
        with forward_ad.dual_level():
            assert loss(logits).isfinite().all()
            with pytest.raises(RuntimeError, match="has no derivative in forward mode"):
                loss(forward_ad.make_dual(logits, logits))
        value = loss(logits)
        scale = torch.tensor(3.0, dtype=value.dtype)
        _, tangent = torch.func.jvp(lambda s, z=logits, f=loss: s * f(z), (scale,), (scale,))
        assert torch.equal(tangent, 3 * value)  # the logits are constant


@pytest.mark.filterwarnings("ignore")
def test_torch_compile_of_transforms():
    """A vmap works. A derivative does not, and says so."""
    logits, target = torch.randn(3, 6, 5), torch.randint(0, 5, (3, 6))
    options = {"backend": "aot_eager"}
    rows = torch.compile(torch.vmap(bridge.cross_entropy), **options)(logits, target)
    torch.testing.assert_close(rows, torch.vmap(functional.cross_entropy)(logits, target))
    for transform in (
        torch.func.grad(bridge.cross_entropy),
        lambda z, y: torch.func.jvp(lambda z: bridge.cross_entropy(z, y), (z,), (z,)),
    ):
        with pytest.raises(RuntimeError, match=r"setup_context|forward mode"):
            torch.compile(transform, **options)(logits[0], target[0])


def test_torch_func_gradient_of_other_arguments_raises():
    logits, target = torch.randn(3, 6, 5), torch.rand(3, 6, 5)

    def of_rows(target):
        return torch.vmap(bridge.cross_entropy)(logits, target).sum()

    def of_weights(weight):
        return bridge.cross_entropy(logits[0], target[0], weight)

    with pytest.raises(ValueError, match="target must be detached"):
        torch.func.grad(of_rows)(target)
    with pytest.raises(ValueError, match="weight must be detached"):
        torch.func.grad(of_weights)(torch.ones(5))
