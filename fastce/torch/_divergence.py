"""The KL divergence of two tensors of logits, which torch has of log-probabilities alone."""

from torch import Tensor

from fastce._call import checks
from fastce.torch import _operators as operators


def kl_divergence(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    temperature: float = 1.0,
    *,
    where: Tensor | None = None,
) -> Tensor:
    """Return the divergence of a softmax from a teacher's, by `fastce.SoftmaxKLDivergence`.

    With T the temperature, it is T² times what `torch.nn.functional.kl_div` makes of
    ``log_softmax(input / T)`` and ``log_softmax(target / T)`` with ``log_target=True``, summed
    over the classes; and it is never negative.

    Parameters
    ----------
    input : Tensor of shape (K,), (N, K) or (N, K, ...)
        The student's logits, on the CPU: float16, bfloat16, float32 or float64.
    target : Tensor of the shape of `input`
        The teacher's logits, of any of these types. They have no gradient: pass them detached.
    reduction : {"mean", "sum", "none"}, default "mean"
        The mean is that of the samples, as torch's "batchmean" of (N, K) logits.
    temperature : float > 0, default 1.0
        Divides the logits of both.
    where : Tensor of bool, optional
        Which classes take part, in both; broadcast to `input`.

    Returns
    -------
    Tensor
        Of the dtype of `input`; float32 for 16-bit logits under autocast.

    Raises
    ------
    TypeError, ValueError
        As `fastce.SoftmaxKLDivergence` raises them; also where `target` requires a gradient, or a
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
    number = (
        temperature if type(temperature) is float else checks.number("temperature", temperature)
    )
    return operators.softmax_kl_divergence(
        input, target, where, number, checks.reduction(reduction)
    )
