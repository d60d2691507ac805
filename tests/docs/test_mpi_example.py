"""The MPI trainer on several processes of this machine equals the one on a single process."""

from __future__ import annotations

import re
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from processes import printed_by

import fastce
from fastce.evaluation import Evaluation, evaluate

pytest.importorskip("mpi4py")

TRAINER = Path(__file__).parents[2] / "examples" / "mpi_trainer.py"

# For MPIs that refuse to run as root, or more processes than processors.
PERMISSIONS = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "FASTCE_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def mpiexec():
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        pytest.skip("there is no mpiexec")
    return found


@pytest.fixture(scope="module")
def trainer():
    """The trainer's module, as one process sees it."""
    try:
        return runpy.run_path(str(TRAINER))
    except RuntimeError as error:
        pytest.skip(f"no MPI library was found: {error}")


@pytest.fixture(scope="module")
def expected(trainer):
    """Losses and weights from the plain loss on whole rows, without MPI."""
    loss = fastce.SoftmaxCrossEntropy(z_loss=1e-4)
    x, y = trainer["data"](trainer["ROWS"])
    weights = np.zeros((trainer["FEATURES"], trainer["CLASSES"]))
    losses = []
    for _ in range(trainer["STEPS"]):
        value, grad = loss.value_and_grad(x @ weights, y)
        weights -= trainer["LEARNING_RATE"] * (x.T @ grad)
        losses.append(value)
    assert losses[-1] < losses[0] / 10
    return losses, weights


@pytest.mark.parametrize("split", ["rows", "classes"])
@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_equals_a_single_process(split, processes, mpiexec, trainer, expected, tmp_path):
    result = tmp_path / "result.npz"
    command = (mpiexec, "-n", processes, sys.executable, TRAINER, split, result)
    printed = printed_by(*command, directory=tmp_path, **PERMISSIONS, **ONE_THREAD)
    losses, weights = expected
    with np.load(result) as trained:
        np.testing.assert_allclose(trained["losses"], losses, rtol=1e-11)
        np.testing.assert_allclose(trained["weights"], weights, rtol=1e-9, atol=1e-12)
        sent = int(trained["sent"])
        merged = Evaluation.from_json(str(trained["evaluation"]))
    x, y = trainer["data"](trainer["ROWS"])
    whole = evaluate(x @ weights, y)
    assert (merged.rank_rows, merged.bin_rows) == (whole.rank_rows, whole.bin_rows)
    assert merged.loss == pytest.approx(whole.loss, rel=1e-9)
    assert merged.entropy == pytest.approx(whole.entropy, rel=1e-9)
    assert f"{processes} processes" in printed

    # What is sent: three float64 per row, or the gradient with respect to the weights.
    rows, features, classes = trainer["ROWS"], trainer["FEATURES"], trainer["CLASSES"]
    assert sent == 8 * (3 * rows if split == "classes" else features * classes)
    (numbers,) = re.findall(r"([\d.]+) numbers per row", printed)
    assert float(numbers) == sent / rows / 8
