r"""Cross-entropy of a linear layer: loss and gradients, without all of its logits in memory.

With N rows, D features and K classes, the logits :math:`Z = X W^T + b` are N·K numbers, often more
than everything else in a training step. They are computed for one chunk of rows at a time,
overwritten with their gradient G, and used at once. The gradients are G W with respect to X, and

.. math:: \frac{∂ℓ}{∂W} = \sum_{\text{chunks}} G^T X, \qquad
          \frac{∂ℓ}{∂b} = \sum_{\text{chunks}} G^T \mathbf{1}
"""

import dataclasses
import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from fastce._call import checks, checks_bridges, layout, threads, variants
from fastce._call.arguments import native_float, working_type
from fastce._call.layout import Array
from fastce._call.loss import Value
from fastce._call.rows import checked_rows
from fastce.losses import SoftmaxCrossEntropy, SoftmaxFocalLoss

__all__ = ["linear_cross_entropy"]

# Bytes of a chunk of logits. For each chunk, one pass over the weights packs them and one over
# their gradient adds to it. With about 400 rows of 32,000 classes, both cost only a few per cent.
CHUNK_BYTES = 48 << 20

# The fewest rows, however many classes there are: with fewer, the passes over the weights dominate.
FEWEST_ROWS = 64

# Chunks start at multiples of this, which fits the tiles of matrix products.
ROWS_MULTIPLE = 16

# Bytes of a block of Gᵀ X. NumPy's product cannot accumulate into an array, so a block is added to
# the gradient while it is in cache.
BLOCK_BYTES = 4 << 20

Gradients = tuple[Value, Array, Array, Array | None]


@np.errstate(all="ignore")  # products and roundings that overflow are infinite or NaN
def linear_cross_entropy(
    hidden: npt.ArrayLike,
    weight: npt.ArrayLike,
    target: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    loss: SoftmaxCrossEntropy | SoftmaxFocalLoss | None = None,
    sample_weight: npt.ArrayLike | None = None,
    normalizer: float | None = None,
) -> Gradients:
    """Return the loss of ``hidden @ weight.T + bias`` and its gradients.

    The gradients are with respect to `hidden`, `weight` and `bias`. The result is that of the loss
    on all logits, followed by the chain rule, but only a chunk of the rows is processed at a time:
    as many as make 48 MiB of logits or of `hidden`, and at least 64. NumPy computes the matrix
    products, with the threads of its BLAS. Rows with the label `ignore_index` or weight 0 are left
    out of them.

    16-bit arrays are converted to float32, a part at a time. Products, logits and sums are then
    float32, and each gradient is rounded to 16 bits once, at the end.

    Parameters
    ----------
    hidden : array_like of shape (..., D)
        The input of the layer: float16, bfloat16, float32 or float64.
    weight : array_like of shape (K, D)
        The weights of the layer, one row per class, with the dtype of `hidden`. If neither the rows
        nor the columns are contiguous, NumPy copies it for each product.
    target : array_like
        Integer class labels of shape (...). Softmax cross-entropy also accepts an array of shape
        (..., K): probabilities, or an integer or bool one-hot encoding.
    bias : array_like of shape (K,), optional
        With the dtype of `hidden`.
    loss : SoftmaxCrossEntropy or SoftmaxFocalLoss, optional
        Its class axis must be the last. ``SoftmaxCrossEntropy()`` by default.
    sample_weight : array_like, optional
        Finite; broadcasts to shape (...). Weights may be negative, but the weights of a mean must
        have a positive sum.
    normalizer : float > 0, optional
        Replaces the denominator of the mean. With the denominator of the whole batch, microbatches
        add up to the batch.

    Returns
    -------
    loss : float or array
        In nats. With ``reduction="none"`` an array of shape (...), float64 for float64 input,
        otherwise float32; the gradients are then those of its sum.
    grad_hidden, grad_weight : array
        With the shapes and the dtype of `hidden` and `weight`.
    grad_bias : array or None
        None if there is no bias.

    Raises
    ------
    TypeError
        An argument has a type that is not accepted.
    ValueError
        The shapes do not fit, the class axis of `loss` is not the last, a weight or a probability
        is out of range, or the weights of a mean have no positive sum.
    IndexError
        A label is neither a class nor `ignore_index`.

    References
    ----------
    E. Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", ICLR 2025, solves the
    same problem. The method here keeps the logits of a chunk instead of computing them twice.

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
        checks_bridges.not_a_loss(chosen, "a SoftmaxCrossEntropy or SoftmaxFocalLoss")
    x, w, b = checks_bridges.linear_layer(hidden, weight, bias)
    real = working_type(x)
    logits = layout.stand_in((*x.shape[:-1], len(w)), real)
    checks_bridges.last_class_axis(logits, chosen.axis)
    _, _, shape, y, is_labels, factor, _ = checked_rows(chosen, logits, target, sample_weight)
    divisor = checks.normalizer(normalizer)
    total_weight, any_counts = chosen.kernel().weigh(logits, native_float(y), factor)
    active = np.ones(math.prod(shape), bool)
    if chosen.reduction != "mean":
        divisor = 1.0
    elif divisor is None:
        divisor = variants.core.denominator_of(total_weight, any_counts)
        active[:] = any_counts  # if no row counts, the loss is NaN and the gradients are 0

    # The losses of the chunks are added up and divided at the end.
    one_by_one = chosen.reduction == "none"
    chunk_loss = dataclasses.replace(chosen, axis=-1, reduction="none" if one_by_one else "sum")
    grads = _Gradients(x, w, b)
    targets = y.reshape(-1) if is_labels else _rows_of(y)
    weights = None if factor is None else factor.reshape(-1)
    if is_labels:
        active &= targets != chosen.ignore_index
    if weights is not None:
        active &= weights != 0
    losses = np.zeros(grads.rows, real)
    totals = []
    widest = max(len(w), x.shape[-1])  # rows of logits, and of the input and its gradient
    for rows in _chunks(grads.rows, widest * real.itemsize, np.flatnonzero(active)):
        chunk = grads.logits(rows)
        value, _ = chunk_loss.value_and_grad(
            chunk,
            targets[rows],
            sample_weight=None if weights is None else weights[rows],
            grad_output=1.0 / divisor,
            out=chunk,
        )
        if one_by_one:
            losses[rows] = value
        else:
            totals.append(value)
        grads.add(rows, chunk)
    if one_by_one:
        return losses.reshape(shape), *grads.results(x)
    return threads.total(totals) / divisor, *grads.results(x)


class _Scattered:
    """An array whose rows may have no common stride, so that reshaping could copy all of them."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __getitem__(self, rows: slice | Array) -> Array:
        shape = self.array.shape[:-1]
        positions = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        part: Array = self.array[np.unravel_index(positions, shape)]
        return part


def _rows_of(array: Array) -> Array | _Scattered:
    """Return an object that yields rows of an array without a copy of all of them."""
    if array.ndim > 2 and not array.flags.c_contiguous:
        return _Scattered(array)
    *shape, last = array.shape
    return array.reshape(math.prod(shape), last)


def _chunks(rows: int, row_bytes: int, used: Array) -> Iterator[slice | Array]:
    """Split the rows that count into chunks of about the same size."""
    count = len(used)
    most = max(CHUNK_BYTES // max(row_bytes, 1), FEWEST_ROWS)
    chunks = -(-count // most)
    step = -(-count // max(chunks, 1) // ROWS_MULTIPLE) * ROWS_MULTIPLE
    for start in range(0, count, step or 1):
        chunk = slice(start, min(start + step, count))
        yield chunk if count == rows else used[chunk]


class _Gradients:
    """The layer and its accumulated gradients.

    16-bit arrays are kept, and converted a few rows or a block of classes at a time.
    """

    def __init__(self, hidden: Array, weight: Array, bias: Array | None) -> None:
        self.rows = math.prod(hidden.shape[:-1])
        self.hidden = _rows_of(hidden)
        self.weight = weight
        self.real = working_type(hidden)
        self.bias = None if bias is None else bias.astype(self.real, copy=False)
        self.grad_hidden = np.zeros((self.rows, hidden.shape[-1]), hidden.dtype)
        self.grad_weight = np.zeros(weight.shape, self.real)
        self.grad_bias = None if bias is None else np.zeros(bias.shape, self.real)
        self._chunk: Array = np.empty((0, len(weight)), self.real)
        classes = max(BLOCK_BYTES // max(weight.shape[1] * self.real.itemsize, 1), 1)
        self._block: Array = np.empty((min(classes, len(weight)), weight.shape[1]), self.real)

    def _blocks(self) -> Iterator[slice]:
        """Yield the range of classes of each block."""
        for start in range(0, len(self.weight), max(len(self._block), 1)):
            yield slice(start, min(start + len(self._block), len(self.weight)))

    def _weights(self) -> Iterator[tuple[slice, Array]]:
        """Yield the weights of all classes, or block by block if they have to be converted."""
        if self.weight.dtype == self.real:
            yield slice(None), self.weight
            return
        for classes in self._blocks():
            block = self._block[: classes.stop - classes.start]
            block[...] = self.weight[classes]
            yield classes, block

    def logits(self, rows: slice | Array) -> Array:
        """Return the logits of some rows, in memory that the next call reuses."""
        hidden = self.hidden[rows].astype(self.real, copy=False)
        if len(hidden) > len(self._chunk):
            self._chunk = np.empty((len(hidden), len(self.weight)), self.real)
        logits = self._chunk[: len(hidden)]
        for classes, weight in self._weights():
            np.matmul(hidden, weight.T, out=logits[:, classes])
        if self.bias is not None:
            logits += self.bias
        return logits

    def add(self, rows: slice | Array, grad: Array) -> None:
        """Add the contribution of some rows, given the gradient of their logits."""
        hidden = self.hidden[rows].astype(self.real, copy=False)
        products = (grad[:, classes] @ weight for classes, weight in self._weights())
        total = next(products, 0)
        for product in products:
            total += product
        self.grad_hidden[rows] = total
        for classes in self._blocks():
            part = self.grad_weight[classes]
            part += np.matmul(grad[:, classes].T, hidden, out=self._block[: len(part)])
        if self.grad_bias is not None:
            self.grad_bias += np.ones(len(grad), grad.dtype) @ grad

    def results(self, hidden: Array) -> tuple[Array, Array, Array | None]:
        """Return the gradients, in the shapes and the dtype of the arguments."""
        of_hidden: Array = self.grad_hidden.reshape(hidden.shape)
        weight = self.grad_weight.astype(hidden.dtype, copy=False)
        bias = self.grad_bias
        bias = None if bias is None else bias.astype(hidden.dtype, copy=False)
        return of_hidden, weight, bias
