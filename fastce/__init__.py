"""Classification losses for NumPy arrays: fast, accurate in the tails, with gradient and Hessian.

>>> import numpy as np
>>> import fastce
>>> logits = np.array([[2.0, 0.0, -1.0], [0.5, 0.5, 3.0]])
>>> loss, grad = fastce.SoftmaxCrossEntropy().value_and_grad(logits, [0, 2])
>>> round(loss, 6)
0.160927
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastce import functions, losses
from fastce._call.configuration import show_config
from fastce._call.threads import get_num_threads, set_num_threads
from fastce._call.version import __version__
from fastce.functions import *  # noqa: F403
from fastce.linear import linear_cross_entropy
from fastce.losses import *  # noqa: F403
from fastce.softmax import TokenLogProbs, log_softmax, logsumexp, softmax, token_log_probs

__all__ = [
    "TokenLogProbs",
    "__version__",
    "get_num_threads",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "set_num_threads",
    "show_config",
    "softmax",
    "token_log_probs",
]
__all__ += losses.__all__
__all__ += functions.__all__

if not TYPE_CHECKING:  # type checkers would accept any name

    def __getattr__(name: str) -> Any:
        """Import a module of the package, which needs only NumPy, when it is first used."""
        if name not in ("evaluation", "information", "reference", "sharded"):
            raise AttributeError(f"module 'fastce' has no attribute {name!r}")
        return importlib.import_module(f"fastce.{name}")
