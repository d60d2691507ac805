"""`fastce.torch.kl_divergence` compared with torch's own, of log-probabilities."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fastce  # noqa: E402
import fastce.torch  # noqa: E402


def torchs(student, teacher, temperature, reduction):
    loss = torch.nn.functional.kl_div(
        torch.log_softmax(student / temperature, 1),
        torch.log_softmax(teacher / temperature, 1),
        reduction="none",
        log_target=True,
    ).sum(1)
    loss = temperature**2 * loss
    return loss if reduction == "none" else getattr(loss, reduction)()


@pytest.mark.parametrize("shape", [(6, 5), (6, 70), (2, 5, 3, 4)])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_it_is_torchs(reduction, temperature, shape):
    student = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(shape, dtype=torch.float64)
    loss = fastce.torch.kl_divergence(student, teacher, reduction, temperature)
    factor = torch.randn(loss.shape, dtype=torch.float64)
    (grad,) = torch.autograd.grad((loss * factor).sum(), student)
    expected = torchs(student, teacher, temperature, reduction)
    (expected_grad,) = torch.autograd.grad((expected * factor).sum(), student)
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-15)


def test_what_torch_makes_negative():
    teacher = torch.randn(200, 50)
    student = teacher + 1e-4 * torch.randn(200, 50)
    assert (torchs(student, teacher, 1.0, "none") < 0).any()
    loss = fastce.torch.kl_divergence(student, teacher, "none")
    assert (loss >= 0).all()
    expected = fastce.SoftmaxKLDivergence(reduction="none")(student.numpy(), teacher.numpy())
    np.testing.assert_array_equal(loss.numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_types_and_compile(dtype):
    student = torch.randn(4, 9).to(dtype).requires_grad_()
    teacher = torch.randn(4, 9).to(dtype)
    where = torch.arange(9) != 3
    loss = fastce.torch.kl_divergence(student, teacher, where=where)
    loss.backward()
    assert loss.dtype == student.grad.dtype == dtype
    assert not student.grad[:, 3].any()
    compiled = torch.compile(fastce.torch.kl_divergence, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(student, teacher, where=where), loss)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_the_module_is_the_function(reduction):
    student, teacher = torch.randn(2, 6, 9)
    where = torch.arange(9) != 3
    module = fastce.torch.KLDivergenceLoss(reduction, 2.5)
    options = {"reduction": reduction, "temperature": 2.5}
    assert repr(module) == f"KLDivergenceLoss(reduction='{reduction}', temperature=2.5)"
    for copied in (module, pickle.loads(pickle.dumps(module))):
        for call in ({}, {"where": where}):
            expected = fastce.torch.kl_divergence(student, teacher, **options, **call)
            torch.testing.assert_close(copied(student, teacher, **call), expected, rtol=0, atol=0)
    assert not module.state_dict()
    with pytest.raises(ValueError, match="temperature must be finite and greater than 0"):
        fastce.torch.KLDivergenceLoss(temperature=0.0)
    with pytest.raises(ValueError, match="reduction must be"):
        fastce.torch.KLDivergenceLoss("batchmean")


def test_what_is_refused():
    student, teacher = torch.zeros(2, 3), torch.zeros(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match="target must be detached"):
        fastce.torch.kl_divergence(student, teacher)
    with pytest.raises(ValueError, match="temperature must be finite and greater than 0"):
        fastce.torch.kl_divergence(student, teacher.detach(), temperature=0)
    with pytest.raises(TypeError, match="target must be a teacher's logits"):
        fastce.torch.kl_divergence(student, torch.zeros(2, dtype=torch.int64))
