"""Cross-entropy of a linear layer: loss and gradients, with the logits never whole in memory.

With N rows, D features and K classes, the logits Z = X Wᵀ + b are N·K numbers, often more than all
else in a training step. Here they are made for a chunk of rows at a time, turned into their own
gradient G where they lie, and used up at once::

    grad_hidden = G W        grad_weight = Σ_chunks Gᵀ X        grad_bias = Σ_chunks Gᵀ 1
"""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from fastce import _checks, _checks_bridges
from fastce._evaluate import Batch
from fastce._loss import Array, Value
from fastce.losses import SoftmaxCrossEntropy, SoftmaxFocalLoss

__all__ = ["linear_cross_entropy"]

# Bytes of a chunk of logits. Each chunk costs a pass over the weights to pack them and one over
# their gradient to add to it: some 400 rows of 32,000 classes keep both within a few per cent.
CHUNK_BYTES = 48 << 20

# No fewer rows than this, however many the classes: below, the passes over the weights dominate.
FEWEST_ROWS = 64

# Chunks start at multiples of this, which suits the tiles of matrix products.
ROWS_MULTIPLE = 16

# Bytes of a block of Gᵀ X, which NumPy cannot add to an array in the product itself. It is added
# while it is in cache.
BLOCK_BYTES = 4 << 20

Gradients = tuple[Value, Array, Array, Array | None]


def linear_cross_entropy(
    hidden: npt.ArrayLike,
    weight: npt.ArrayLike,
    target: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    loss: SoftmaxCrossEntropy | SoftmaxFocalLoss | None = None,
) -> Gradients:
    """Return the loss of ``hidden @ weight.T + bias`` and its gradients by all three.

    The result is that of the loss on the logits, and the chain rule; but at most a chunk of some
    48 MiB of the logits exists at a time (64 rows, where these are more). The matrix products are
    NumPy's and run on its BLAS's threads. Rows with the label `ignore_index` take no part in them.

    Parameters
    ----------
    hidden : array_like of shape (..., D)
        What goes into the layer: float32 or float64.
    weight : array_like of shape (K, D)
        The layer's weights, one row a class; of the dtype of `hidden`. NumPy's products copy it
        each time if neither its rows nor its columns are contiguous.
    target : array_like
        Integer labels of shape (...), or (softmax cross-entropy) probabilities of shape (..., K).
    bias : array_like of shape (K,), optional
        Of the dtype of `hidden`.
    loss : SoftmaxCrossEntropy or SoftmaxFocalLoss, optional
        Its class axis must be the last. ``SoftmaxCrossEntropy()`` by default.

    Returns
    -------
    loss : float or array
        In nats; with ``reduction="none"`` an array of shape (...), and the gradients are those of
        its sum.
    grad_hidden, grad_weight : array
        Of the shapes and the dtype of `hidden` and `weight`.
    grad_bias : array or None
        None without a bias.

    Raises
    ------
    TypeError
        An argument is of a type that is not accepted.
    ValueError
        The shapes do not fit, or the class axis of `loss` is not the last.
    IndexError
        A label is neither a class nor `ignore_index`. Nothing was computed then.

    References
    ----------
    E. Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", ICLR 2025, is on the
    same problem; the method here keeps each chunk's logits instead of computing them twice.

    Examples
    --------
    >>> import numpy as np
    >>> import fastce
    >>> hidden, weight = np.array([[1.0, 0.0], [0.0, 2.0]]), np.eye(3, 2)
    >>> loss, grad_hidden, grad_weight, _ = fastce.linear_cross_entropy(hidden, weight, [0, 1])
    >>> round(loss, 4)
    0.3955
    >>> grad_hidden.shape, grad_weight.shape
    ((2, 2), (3, 2))
    """
    chosen = SoftmaxCrossEntropy() if loss is None else loss
    if not isinstance(chosen, SoftmaxCrossEntropy | SoftmaxFocalLoss):
        _checks_bridges.not_a_loss(chosen, "a SoftmaxCrossEntropy or SoftmaxFocalLoss")
    x, w, b = _checks_bridges.linear_layer(hidden, weight, bias)
    # What the logits would be, for the checks: it takes no memory.
    logits = np.broadcast_to(x.dtype.type(0), (*x.shape[:-1], len(w)))
    _checks_bridges.last_class_axis(logits, chosen.axis)
    y, is_labels = _checks.softmax_target(
        target, logits, logits.ndim - 1, probabilities=chosen.takes_probabilities
    )
    _checks.weights_fit(chosen.class_weight_name, chosen.class_weight, len(w))
    denominator = Batch(chosen.kernel(), logits, labels=y if is_labels else None).denominator()

    losses = np.zeros(x.shape[:-1], x.dtype)
    grads = _Gradients(x, w, b)
    if chosen.reduction == "mean" and not denominator:
        return np.nan, *grads.results(x.shape)
    options: dict[str, Any] = {"normalizer": denominator} if chosen.reduction == "mean" else {}
    row_loss = dataclasses.replace(chosen, axis=-1)
    targets = y.reshape(-1) if is_labels else y.reshape(grads.rows, len(w))
    used = np.flatnonzero(targets != chosen.ignore_index) if is_labels else None
    total = 0.0
    for rows in _chunks(grads.rows, len(w) * x.dtype.itemsize, used):
        chunk = grads.logits(rows)
        value, _ = row_loss.value_and_grad(chunk, targets[rows], out=chunk, **options)
        if chosen.reduction == "none":
            losses.reshape(-1)[rows] = value
        else:
            total += value
        grads.add(rows, chunk)
    return losses if chosen.reduction == "none" else total, *grads.results(x.shape)


def _chunks(rows: int, row_bytes: int, used: Array | None) -> Iterator[slice | Array]:
    """Cut the rows, or those of them that are used, into chunks of about the same size."""
    if used is not None and len(used) < rows:
        rows = len(used)
    else:
        used = None
    most = max(CHUNK_BYTES // max(row_bytes, 1), FEWEST_ROWS)
    count = -(-rows // most)
    step = -(-rows // max(count, 1) // ROWS_MULTIPLE) * ROWS_MULTIPLE
    for start in range(0, rows, step or 1):
        chunk = slice(start, min(start + step, rows))
        yield chunk if used is None else used[chunk]


class _Gradients:
    """The layer, and its gradients as far as they have been added up."""

    def __init__(self, hidden: Array, weight: Array, bias: Array | None) -> None:
        self.rows = math.prod(hidden.shape[:-1])
        self.hidden = hidden.reshape(self.rows, hidden.shape[-1])
        self.weight = weight
        self.bias = bias
        self.grad_hidden = np.zeros(self.hidden.shape, hidden.dtype)
        self.grad_weight = np.zeros(weight.shape, hidden.dtype)
        self.grad_bias = None if bias is None else np.zeros(bias.shape, hidden.dtype)
        self._chunk: Array = np.empty((0, len(weight)), hidden.dtype)
        classes = max(BLOCK_BYTES // max(weight.shape[1] * hidden.itemsize, 1), 1)
        self._block: Array = np.empty((min(classes, len(weight)), weight.shape[1]), hidden.dtype)

    def logits(self, rows: slice | Array) -> Array:
        """Return the logits of some rows, in memory that the next call uses again."""
        hidden = self.hidden[rows]
        if len(hidden) > len(self._chunk):
            self._chunk = np.empty((len(hidden), len(self.weight)), self.hidden.dtype)
        logits = np.matmul(hidden, self.weight.T, out=self._chunk[: len(hidden)])
        if self.bias is not None:
            logits += self.bias
        return logits

    def add(self, rows: slice | Array, grad: Array) -> None:
        """Add what follows from the gradient by the logits of some rows."""
        hidden = self.hidden[rows]
        self.grad_hidden[rows] = grad @ self.weight
        for start in range(0, len(self.weight), len(self._block)):
            part = self.grad_weight[start : start + len(self._block)]
            transposed = grad[:, start : start + len(part)].T
            part += np.matmul(transposed, hidden, out=self._block[: len(part)])
        if self.grad_bias is not None:
            self.grad_bias += np.ones(len(grad), grad.dtype) @ grad

    def results(self, shape: tuple[int, ...]) -> tuple[Array, Array, Array | None]:
        return self.grad_hidden.reshape(shape), self.grad_weight, self.grad_bias
