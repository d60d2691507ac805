"""The list of losses × options × inputs that the property tests are parametrised over.

A new loss, option or kind of input is tested by adding lines to `softmax_cases.py` or
`sigmoid_cases.py`. Logits lie on a grid of 1/32 unless a case says otherwise: then their
differences are exact in every precision, and the bound on the error needs no allowance for the
rounding of u − max u.
"""

from __future__ import annotations

import sigmoid_cases
import softmax_cases
from losses import (  # noqa: F401
    DISTILLATION,
    DTYPES,
    FUNCTIONS,
    INTEGERS,
    LOSSES,
    REDUCTIONS,
    SIGMOID,
    SOFTMAX,
    Batch,
    Case,
    small_batch,
)

SOFTMAX_CASES = softmax_cases.CASES
SIGMOID_CASES = sigmoid_cases.CASES
CASES = [*SOFTMAX_CASES, *SIGMOID_CASES]
TERMS = {**softmax_cases.TERMS, **sigmoid_cases.TERMS}  # what bounds.py puts bounds on


def case(loss: str, name: str) -> Case:
    """The case of that loss and name."""
    (found,) = (c for c in CASES if c.loss == loss and c.name == name)
    return found


# Options that reach every branch of the kernels: for the properties of layout, threads and outputs,
# which do not depend on the values.
THOROUGH = [
    case("SoftmaxCrossEntropy", "everything"),
    case("SoftmaxCrossEntropy", "probabilities, everything"),
    case("SoftmaxFocalLoss", "sample weight"),
    case("SoftmaxKLDivergence", "everything"),
    case("BCEWithLogits", "everything"),
    case("SigmoidFocalLoss", "everything"),
]
