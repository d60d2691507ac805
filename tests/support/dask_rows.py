"""Rows in chunks over both axes."""

from __future__ import annotations

import dask.array as da
import numpy as np
from batches import confident, on_grid


def rows_of_a_vocabulary(rng):
    """Return logits of a small vocabulary, some of them confident, and labels."""
    z = on_grid(rng, (60, 500)).astype(np.float32)
    z[:20] = confident(rng, (20, 500))
    y = np.where(rng.random(60) < 0.5, np.argmax(z, axis=1), rng.integers(500, size=60))
    return da.from_array(z, chunks=(17, 90)), da.from_array(y, chunks=25)
