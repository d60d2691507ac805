"""The KL divergence of two tensors of logits; torch has it only for log-probabilities."""

# If torch is not installed, its classes have no type:
# mypy: disallow-subclassing-any=False

from torch import Tensor

from fastce._call import checks
from fastce.torch import _operators as operators
from fastce.torch._module import LossModule


def kl_divergence(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    temperature: float = 1.0,
    *,
    where: Tensor | None = None,
) -> Tensor:
    """Compute the KL divergence from a teacher's softmax with `fastce.SoftmaxKLDivergence`.

    With the temperature T, the result is T² times that of `torch.nn.functional.kl_div` for
    ``log_softmax(input / T)`` and ``log_softmax(target / T)`` with ``log_target=True``, summed
    over the classes. It is never negative.

    Parameters
    ----------
    input : Tensor of shape (K,), (N, K) or (N, K, ...)
        The student's logits, on the CPU: float16, bfloat16, float32 or float64.
    target : Tensor of the shape of `input`
        The teacher's logits, of any of these types. They get no gradient: pass them detached.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean is over samples, like torch's "batchmean" for logits of shape (N, K).
    temperature : float > 0, default 1.0
        Divides the logits of both the student and the teacher.
    where : Tensor of bool, optional
        Which classes count, for student and teacher; broadcasts to `input`.

    Returns
    -------
    Tensor
        With the dtype of `input`; float32 for 16-bit logits under autocast.

    Raises
    ------
    TypeError, ValueError
        As raised by `fastce.SoftmaxKLDivergence`; also if `target` requires a gradient, or a
        tensor is not on the CPU.

    Examples
    --------
    >>> import torch
    >>> import fastce.torch
    >>> student = torch.zeros(1, 3, requires_grad=True)
    >>> teacher = torch.tensor([[1.0, 0.0, 0.0]])
    >>> loss = fastce.torch.kl_divergence(student, teacher, temperature=2.0)
    >>> loss.backward()
    >>> print(f"{loss.item():.6f} {student.grad[0, 0].item():.6f}")
    0.120668 -0.237059
    """
    return operators.softmax_kl_divergence(
        input,
        target,
        where,
        operators.number("temperature", temperature),
        checks.reduction(reduction),
    )


class KLDivergenceLoss(LossModule):
    """`kl_divergence` as a module with the same options, for distillation.

    It takes logits, whereas `torch.nn.KLDivLoss` takes log-probabilities. Its gradient is with
    respect to ``input``, the student; the teacher's logits must be detached. Every reduction except
    "none" is over samples: "mean" is torch's "batchmean" of (N, K) logits.

    Examples
    --------
    >>> import torch
    >>> import fastce.torch
    >>> loss = fastce.torch.KLDivergenceLoss(temperature=2.0)
    >>> student, teacher = torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 0.0]])
    >>> round(loss(student, teacher).item(), 6)
    0.120668
    """

    _function = staticmethod(kl_divergence)
    _options = ("reduction", "temperature")

    def __init__(self, reduction: str = "mean", temperature: float = 1.0) -> None:
        super().__init__()
        self.reduction = checks.reduction(reduction)
        self.temperature = checks.number("temperature", temperature, above=0)

    def extra_repr(self) -> str:
        """Name the options, as the module prints them."""
        return f"reduction={self.reduction!r}, temperature={self.temperature}"
