"""Classification losses for NumPy arrays: fast, accurate in the tails, with gradient and Hessian.

>>> import numpy as np
>>> import fastce
>>> logits = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])
>>> loss, grad = fastce.SoftmaxCrossEntropy().value_and_grad(logits, [0, 2])
>>> round(loss, 6)
0.160927
"""

from fastce._call.configuration import show_config
from fastce._call.threads import get_num_threads, set_num_threads
from fastce._call.version import __version__
from fastce.functions import (
    bce_with_logits,
    sigmoid_focal_loss,
    softmax_cross_entropy,
    softmax_focal_loss,
    softmax_kl_divergence,
)
from fastce.linear import linear_cross_entropy
from fastce.losses import (
    BCEWithLogits,
    SigmoidFocalLoss,
    SoftmaxCrossEntropy,
    SoftmaxFocalLoss,
    SoftmaxKLDivergence,
)
from fastce.softmax import TokenLogProbs, log_softmax, logsumexp, softmax, token_log_probs

__all__ = [
    "BCEWithLogits",
    "SigmoidFocalLoss",
    "SoftmaxCrossEntropy",
    "SoftmaxFocalLoss",
    "SoftmaxKLDivergence",
    "TokenLogProbs",
    "__version__",
    "bce_with_logits",
    "get_num_threads",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "set_num_threads",
    "show_config",
    "sigmoid_focal_loss",
    "softmax",
    "softmax_cross_entropy",
    "softmax_focal_loss",
    "softmax_kl_divergence",
    "token_log_probs",
]
