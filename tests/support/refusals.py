"""For tests of rejected arguments: a check of the error, and an array whose conversion fails."""

from __future__ import annotations

import numpy as np
import pytest
from cases import small_batch

import fastce

ROWS, CLASSES = small_batch("BCEWithLogits")[0].shape
MARK = 12345


def refuse(error, match, loss, logits, target, options=None, **call):
    """All three methods raise, and neither outputs nor inputs are written to."""
    made = getattr(fastce, loss)(**(options or {}))
    shape = np.shape(logits) if isinstance(logits, np.ndarray) else (ROWS, CLASSES)
    dtype = getattr(logits, "dtype", np.dtype(np.float32))
    outs = [np.full(shape, 77, dtype if dtype.kind == "f" else np.float32) for _ in range(2)]
    arrays = [x for x in (logits, target, *call.values()) if type(x) is np.ndarray]
    before = [x.tobytes() for x in arrays]
    with pytest.raises(error, match=match):
        made(logits, target, **call)
    with pytest.raises(error, match=match):
        made.value_and_grad(logits, target, out=outs[0], **call)
    with pytest.raises(error, match=match):
        made.value_grad_hess(logits, target, out=tuple(outs), **call)
    assert all((out == 77).all() for out in outs)
    assert [x.tobytes() for x in arrays] == before


class Failing:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("no array today")
