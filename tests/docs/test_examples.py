"""Every example runs, from another directory, and says what it promises."""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment

EXAMPLES = Path(__file__).parents[2] / "examples"


def imported_packages(source):
    """Return the top-level names of all that a source imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


# What examples need besides what they import: dask.dataframe, for XGBoost on Dask, wants pyarrow.
ALSO_NEEDED = {"boosting_on_dask.py": {"pyarrow"}}


def run(example, directory):
    imported = imported_packages(example.read_text(encoding="utf-8"))
    missing = [
        name
        for name in sorted(imported | ALSO_NEEDED.get(example.name, set()))
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        pytest.skip(f"could not import {missing}")
    return run_script(example, directory)


def run_script(script, directory, *arguments):
    finished = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", str(script), *arguments],
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


def check_train_digits(printed, directory):
    accuracy = {
        name: float(percent)
        for name, percent in re.findall(r"^(.+?) +([\d.]+)% held-out accuracy", printed, re.M)
    }
    assert accuracy["fastce"] >= 97
    # The three losses are one function: the runs may differ by what rounding does to a few images.
    assert accuracy.keys() == {"fastce", "plain NumPy", "fastce.reference"}
    assert max(accuracy.values()) - min(accuracy.values()) <= 1

    picture = Path(re.search(r"^picture of the run: (.+)$", printed, re.M).group(1))
    assert picture.parent == directory.resolve()
    assert picture.read_bytes().startswith(b"\x89PNG")


def check_evaluate_logits(printed, tmp_path):
    greedy = float(re.search(r"greedy match ([\d.]+)%", printed)[1])
    assert 65 < greedy < 76  # three tokens of four are favoured; now and then another is best


def check_numba_trainer(printed, tmp_path):
    assert float(re.search(r"([\d.]+)% held-out accuracy", printed)[1]) >= 96


def check_ctypes_caller(printed, tmp_path):
    assert "the Python interface gives the same bits" in printed
    assert "status of a target of 1.5: 3; gradient written: False" in printed


def check_boosting_on_dask(printed, tmp_path):
    assert float(re.search(r"difference of raw scores: (\S+)", printed)[1]) < 1e-4
    assert float(re.search(r"on 2 workers: accuracy ([\d.]+)", printed)[1]) > 0.7


def check_xgboost_focal(printed, tmp_path):
    """Focal loss ranks about as the built-in objective does; the published mistake guesses."""
    mean = {
        name: float(value)
        for name, value in re.findall(r"^  (.+?) +([\d.]+) ± [\d.]+$", printed, re.M)
    }
    built_in, chosen, same, mistake = (
        "binary:logistic, built in",
        "focal, fastce, γ and α chosen",
        "focal, fastce, γ=2",
        "focal, published Hessian, γ=2",
    )
    assert list(mean) == [built_in, chosen, same, mistake]
    assert "in poor health: 1.50% of 20190 rows" in printed
    assert mean[mistake] < 0.022  # about the share of poor health, as scores without meaning
    assert min(mean[built_in], mean[chosen], mean[same]) > 0.04
    assert abs(mean[chosen] - mean[built_in]) < 0.03
    assert re.search(r"ahead in \d+ splits", printed)


def check_lightgbm_multiclass(printed, tmp_path):
    """The plain loss gives the built-in model, and smoothing harms less where labels are wrong."""
    rows = re.findall(r"^(.+?) +accuracy ([\d.]+)   cross-entropy ([\d.]+)$", printed, re.M)
    built_in, plain, smoothed = ((float(a), float(c)) for _, a, c in rows)
    assert plain == built_in
    assert smoothed[0] > built_in[0] > 0.8
    assert float(re.search(r"raw scores of the first two: (\S+)", printed)[1]) < 1e-9


def check_logistic_regression_scipy(printed, tmp_path):
    assert float(re.search(r"from scikit-learn's coefficients: (\S+)", printed)[1]) < 1e-5
    assert float(re.search(r"largest coefficient ([\d.]+)", printed)[1]) > 1
    assert "same classes: True" in printed


def check_torch_swap(printed, tmp_path):
    """The same losses, step by step; the time is for the benchmarks to compare."""
    losses = re.findall(r"loss ([\d.]+) with torch, ([\d.]+) with fastce", printed)
    assert len(losses) == 3
    assert float(losses[-1][0]) < float(losses[0][0]) - 1
    assert float(re.search(r"difference of a step's loss: (\S+)", printed)[1]) < 1e-5
    assert re.search(r"time in the loss: [\d.]+ s with torch, [\d.]+ s with fastce", printed)


def check_linear_cross_entropy(printed, tmp_path):
    """The losses of the whole logits, in a part of their memory."""
    logits = float(re.search(r"the logits would take (\d+) MiB", printed)[1])
    rows = re.findall(r"losses ([\d. ]+); +(\d+) MiB at the peak", printed)
    (losses, memory), (whole_losses, whole_memory) = rows
    assert losses == whole_losses
    losses = [float(loss) for loss in losses.split()]
    assert len(losses) == 4
    assert losses == sorted(losses, reverse=True)
    assert float(memory) < 80 < logits < float(whole_memory)


def check_distil_digits(printed, directory):
    teacher, labels, logits = (float(x) for x in re.findall(r": ([\d.]+)%", printed))
    assert teacher >= 97
    assert logits >= 95
    assert logits > labels + 2  # the teacher has seen more labels than the student
    picture = Path(re.search(r"^picture of both: (.+)$", printed, re.M).group(1))
    assert picture.read_bytes().startswith(b"\x89PNG")


CHECKS = {
    "boosting_on_dask.py": check_boosting_on_dask,
    "ctypes_caller.py": check_ctypes_caller,
    "distil_digits.py": check_distil_digits,
    "evaluate_logits.py": check_evaluate_logits,
    "lightgbm_multiclass.py": check_lightgbm_multiclass,
    "linear_cross_entropy.py": check_linear_cross_entropy,
    "logistic_regression_scipy.py": check_logistic_regression_scipy,
    "mpi_trainer.py": None,  # test_mpi.py runs it on several processes, and checks what it says
    "numba_trainer.py": check_numba_trainer,
    "torch_swap.py": check_torch_swap,
    "train_digits.py": check_train_digits,
    "xgboost_focal.py": check_xgboost_focal,
}


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_example_runs(example, tmp_path):
    printed = run(example, tmp_path)
    assert printed.strip()
    if check := CHECKS[example.name]:
        check(printed, tmp_path)


def test_cython_trainer_builds_and_runs(tmp_path):
    shutil.copytree(EXAMPLES / "cython_trainer", tmp_path, dirs_exist_ok=True)
    run_script("setup.py", tmp_path, "build_ext", "--inplace")
    printed = run_script("train.py", tmp_path)
    rows = re.findall(r"training loss ([\d.]+), ([\d.]+)% held-out accuracy", printed)
    losses, accuracies = zip(*((float(a), float(b)) for a, b in rows), strict=True)
    assert len(losses) == 4
    assert list(losses) == sorted(losses, reverse=True)
    assert max(accuracies) >= 96


SOURCES = [path for path in sorted(EXAMPLES.rglob("*")) if path.suffix in (".py", ".pyx")]


@pytest.mark.parametrize("example", SOURCES, ids=lambda path: path.name)
def test_example_is_short(example):
    assert len(example.read_text(encoding="utf-8").splitlines()) < 100
