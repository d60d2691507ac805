"""The evaluation of dask arrays: chunks are evaluated, and merged."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("dask.array")

import dask.array as da

import fastce.dask
from fastce.evaluation import Evaluation, evaluate


@pytest.mark.parametrize("scheduler", ["sync", "threads"])
@pytest.mark.parametrize("chunks", [(60, 500), (7, 500), (1, 500), (17, 90)])
def test_chunks_merge_to_the_whole(chunks, scheduler, problem):
    z, y = problem
    expected = evaluate(z.compute(), y.compute(), bins=10, max_rank=20)
    lazy = fastce.dask.evaluate(z.rechunk(chunks), y, bins=10, max_rank=20)
    result = lazy.compute(scheduler=scheduler)
    assert isinstance(result, Evaluation)
    assert result.rank_rows == expected.rank_rows
    assert result.bin_rows == expected.bin_rows
    for name in ("loss", "entropy", "brier", "calibration_error"):
        assert getattr(result, name) == pytest.approx(getattr(expected, name), rel=1e-12)


def test_axes_and_options(problem):
    z, y = (x.compute() for x in problem)
    y[::4] = 7
    expected = evaluate(z, y, ignore_index=7, temperature=2)
    shaped = da.from_array(z.T.reshape(500, 6, 10), chunks=(100, 4, 5))
    result = fastce.dask.evaluate(
        shaped, y.reshape(6, 10), axis=0, ignore_index=7, temperature=2
    ).compute(scheduler="sync")
    assert result.rank_rows == expected.rank_rows
    assert result.ignored == expected.ignored
    # Other kernels read rows along another axis, and round float32 differently.
    assert result.loss == pytest.approx(expected.loss, rel=1e-7)


def test_errors(problem):
    z, y = problem
    with pytest.raises(ValueError, match="bins must be at least 1"):
        fastce.dask.evaluate(z, y, bins=0)
    with pytest.raises(ValueError, match="temperature must be finite"):
        fastce.dask.evaluate(z, y, temperature=0)
    with pytest.raises(ValueError, match=r"class labels must have shape \(60,\)"):
        fastce.dask.evaluate(z, y[:5])
    with pytest.raises(TypeError, match="logits must be a dask array"):
        fastce.dask.evaluate(np.zeros((2, 3)), [0, 1])
    bad = y.compute()
    bad[40] = 500
    lazy = fastce.dask.evaluate(z.rechunk((7, 500)), bad)
    with pytest.raises(IndexError, match=r"label 500 at position \(?40"):
        lazy.compute(scheduler="sync")
