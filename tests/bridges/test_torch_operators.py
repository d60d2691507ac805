"""The operators and autograd functions under fastce.torch: derivatives, memory, graphs."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as functional  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch_calls import (  # noqa: E402
    BINARY_CROSS_ENTROPIES,
    DTYPES,
    assert_same,
    both,
    calls,
    logits_of,
)

import fastce.torch as bridge  # noqa: E402
from fastce.torch import _operators as operators  # noqa: E402


def test_torch_opcheck():
    labels = torch.tensor([0, 4, -100, 2, 1, 3])
    halves, weight = torch.rand(6, 5), torch.linspace(0.5, 1.5, 5)
    where, alpha = halves < 0.8, torch.tensor(0.25)
    for name, target, tensors, options in (
        ("softmax_cross_entropy", labels, (where, weight), (-100, 0.1, 0.2, 0.5, 9.0)),
        ("softmax_focal_loss", labels, (None, weight), (1.5, -100)),
        ("softmax_kl_divergence", halves, (where,), (2.0,)),
        ("bce_with_logits", halves, (where, weight, None), ()),
        ("sigmoid_focal_loss", halves, (None, alpha), (1.5, 0.1)),
    ):
        operator = getattr(torch.ops.fastce, name)
        for dtype in (torch.float64, torch.float32, torch.float16):
            for reduction, with_grad in (("mean", True), ("none", False)):
                values = (*options, reduction)
                text = ", ".join(f"option={value!r}" for value in values)
                logits = logits_of(6, 5, dtype=dtype).detach()
                torch.library.opcheck(operator, (logits, target, *tensors, text, with_grad))


@pytest.fixture(params=["directly", "by the operator"])
def way(request, monkeypatch):
    """Both paths of a call outside of transforms; on the second, no tensor counts as plain."""
    if request.param == "by the operator":
        monkeypatch.setattr(operators, "PLAIN", ())


@pytest.mark.usefixtures("way")
def test_torch_gradcheck():
    for loss, logits, target in calls(torch.float64):
        assert torch.autograd.gradcheck(lambda z, y=target, f=loss: f(z, y), (logits,))


@pytest.mark.usefixtures("way")
def test_second_torch_derivative_raises():
    """Only when it is taken: create_graph alone takes none."""
    for loss, logits, target in calls(torch.float32):
        value = loss(logits, target).sum()
        (grad,) = torch.autograd.grad(value, logits, create_graph=True)
        (again,) = torch.autograd.grad(value, logits)
        assert torch.equal(grad.detach(), again)
        with pytest.raises(RuntimeError, match="has no second derivative"):
            (value + (grad**2).sum()).backward()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torch_gradients_share_no_memory(dtype):
    """Each backward pass hands out memory of its own, which may be written to in any way."""
    for loss, logits, target in calls(dtype):
        value = loss(logits, target)
        ones = torch.ones_like(value)
        first, expected = (
            torch.autograd.grad(value, logits, factor, retain_graph=True)[0]
            for factor in (ones, 2 * ones)
        )
        second, third = (
            torch.autograd.grad(value, logits, ones, retain_graph=True)[0] for _ in range(2)
        )
        for grad in (first, second, third):
            torch.testing.assert_close(2 * grad, expected)
            assert torch.equal(grad, first)
        pointers = {grad.data_ptr() for grad in (first, second, third, expected, logits)}
        assert len(pointers) == 5
        kept = first.clone()
        first -= 1
        second.data.fill_(7)
        if dtype != torch.bfloat16:
            third.numpy()[...] = 5
        assert torch.equal(torch.autograd.grad(value, logits, ones, retain_graph=True)[0], kept)
        for _ in range(3):  # what is added up in logits.grad is not shared either
            value.backward(ones, retain_graph=True)
        torch.testing.assert_close(logits.grad, 3 * kept)
        value.backward(ones)
        with pytest.raises(RuntimeError, match="a second time"):
            value.backward(ones)


def test_torch_writes_before_the_backward_pass():
    """As in torch: the logits may be written to before the first backward pass, not the second."""
    logits, labels = logits_of(4, 3), torch.tensor([0, 1, 2, 0])
    (expected,) = torch.autograd.grad(functional.cross_entropy(logits, labels), logits)
    inner = 1 * logits
    loss = bridge.cross_entropy(inner, labels)
    inner.zero_()
    (grad,) = torch.autograd.grad(loss, logits, retain_graph=True)
    torch.testing.assert_close(grad, expected)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(loss, logits)


@pytest.mark.usefixtures("way")
def test_torch_batch_of_gradients():
    """torch's vmap, old and new, maps the backward pass over several values of grad_output."""
    logits, labels = logits_of(4, 3), torch.tensor([0, 1, 2, 0])
    for reduction, factors in (("mean", torch.tensor([1.0, 2.0])), ("none", torch.eye(4))):
        loss = bridge.cross_entropy(logits, labels, reduction=reduction)

        def grad(factor, loss=loss, **options):
            return torch.autograd.grad(loss, logits, factor, retain_graph=True, **options)[0]

        for _ in range(2):
            expected = torch.stack([grad(factor) for factor in factors])
            assert torch.equal(grad(factors, is_grads_batched=True), expected)
            assert torch.equal(torch.vmap(grad)(factors), expected)
            loss = bridge.cross_entropy(logits, labels, reduction=reduction)  # in the vmap first
            grad.__defaults__ = (loss,)
            assert torch.equal(torch.vmap(grad)(factors), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_torch_bits_do_not_depend_on_the_dispatcher(dtype, monkeypatch):
    for function, logits, target in calls(dtype):
        contiguous = logits.detach()
        for tensor in (contiguous, contiguous.mT.contiguous().mT):
            results = []
            for plain in (operators.PLAIN, ()):
                leaf = tensor.detach().requires_grad_()
                with monkeypatch.context() as patch:
                    patch.setattr(operators, "PLAIN", plain)
                    loss = function(leaf, target)
                    alone = function(tensor, target)
                factor = torch.linspace(1.0, 2.0, loss.numel(), dtype=dtype).reshape(loss.shape)
                loss.backward(factor)
                results.append((loss.detach(), leaf.grad))
                assert torch.equal(alone, loss.detach())
            (loss, grad), (expected, expected_grad) = results
            assert torch.equal(loss, expected)
            assert torch.equal(grad, expected_grad)
            assert grad.stride() == expected_grad.stride()


def test_torch_graphs_know_in_which_order_losses_lie():
    """Those of permuted logits, as in channels_last images, are in the order of the logits."""
    logits, target = logits_of(2, 3, 4, 5), torch.rand(2, 3, 4, 5)

    def flat(function):
        return lambda z, y: function(z, y, reduction="none").flatten().cumsum(0)

    ours, theirs = (flat(function) for function in BINARY_CROSS_ENTROPIES)
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    for view in (logits.to(memory_format=torch.channels_last), logits.mT.contiguous().mT):
        assert_same(both(compiled, theirs, view, target))
        assert bridge.sigmoid_focal_loss(view, target, reduction="none").stride() == view.stride()


def test_torch_graphs_stay_whole_if_shapes_change():
    """With dynamic=True, this is so for losses without numbers as options."""
    for function, dynamic in (
        (bridge.cross_entropy, None),
        (bridge.binary_cross_entropy_with_logits, True),
    ):
        compiled = torch.compile(function, backend="eager", fullgraph=True, dynamic=dynamic)
        for rows in (3, 5, 7):
            logits, target = torch.randn(rows, 4), torch.rand(rows, 4)
            assert torch.equal(compiled(logits, target), function(logits, target))


@pytest.mark.filterwarnings("ignore")  # of torch.jit
def test_torch_traces_and_graphs_hold_the_operator(tmp_path):
    logits, target = torch.randn(6, 5), torch.randint(0, 5, (6,))
    expected = bridge.cross_entropy(logits, target)
    traced = torch.jit.trace(lambda z: bridge.cross_entropy(z, target), logits)
    assert "fastce::softmax_cross_entropy" in str(traced.graph)
    assert torch.equal(traced(logits), expected)
    leaf = logits.clone().requires_grad_()
    traced = torch.jit.trace(lambda z: bridge.cross_entropy(z, target), leaf)
    ours, theirs = both(traced, lambda z: functional.cross_entropy(z, target), -logits)
    assert_same((ours, theirs))

    class Scored(torch.nn.Module):
        def forward(self, logits, target):
            return bridge.cross_entropy(logits, target, label_smoothing=0.1)

    program = torch.export.export(Scored(), (logits, target))
    assert "fastce.softmax_cross_entropy" in str(program.graph)
    torch.export.save(program, tmp_path / "scored.pt2")
    again = torch.export.load(tmp_path / "scored.pt2").module()
    assert torch.equal(again(-logits, target), Scored()(-logits, target))

    graph = make_fx(lambda z, y: bridge.cross_entropy(z, y), tracing_mode="fake")(logits, target)
    assert "fastce.softmax_cross_entropy" in graph.code
    assert torch.equal(graph(-logits, target), bridge.cross_entropy(-logits, target))


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
    with pytest.raises(ValueError, match="weight must be a tensor on the CPU"):
        bridge.cross_entropy(torch.zeros(6, 5), labels, torch.ones(5, device="meta"))
