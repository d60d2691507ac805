"""The memory limit: the NumPy call that reads and writes the same arrays, and computes nothing."""

from __future__ import annotations

import numpy as np

from bench.cells import LOSSES
from bench.problems import Problem
from bench.subjects import LIMIT, Run, subject


@subject(LIMIT, *LOSSES, "softmax", "log_softmax", "logsumexp", "token_log_probs")
def limit(problem: Problem) -> Run:
    z, y = problem.logits, problem.target
    if z.dtype.name == "bfloat16":
        z = z.view(np.uint16)  # the same bytes, in a dtype that NumPy copies at full speed
    out = np.zeros_like(z)
    if problem.cell.limit == "copy":
        return lambda: np.copyto(out, z)
    if problem.cell.limit == "multiply":
        return lambda: np.multiply(z, y, out=out)
    return lambda: np.max(z)
