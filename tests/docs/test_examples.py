"""Every example runs, from another directory, and prints what it promises."""

import ast
import importlib
import importlib.util
import re
import shutil
import sys
import warnings
from pathlib import Path

import pytest
from processes import printed_by

import fastce

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


# What examples need besides what they import: dask.dataframe, for XGBoost on Dask, needs pyarrow.
ALSO_NEEDED = {"boosting_on_dask.py": {"pyarrow"}}


def run(example, directory):
    imported = imported_packages(example.read_text(encoding="utf-8"))
    imported -= {neighbour.stem for neighbour in EXAMPLES.glob("*.py")}
    missing = [
        name
        for name in sorted(imported | ALSO_NEEDED.get(example.name, set()))
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        pytest.skip(f"could not import {missing}")
    return run_script(example, directory)


def run_script(script, directory, *arguments):
    warnings_are_errors = ("-W", "error::RuntimeWarning")
    return printed_by(sys.executable, *warnings_are_errors, script, *arguments, directory=directory)


# What an example of this name promises ------------------------------------------------------------


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


def check_digits(printed, tmp_path):
    assert float(re.search(r"([\d.]+)% held-out accuracy", printed)[1]) >= 97


def check_segmentation(printed, tmp_path):
    """Pixels of digits are found, not background alone, which would give a mean of 1/11."""
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", printed)]
    assert losses[-1] < losses[0] / 4
    assert "logits (32, 11, 40, 40), target (32, 40, 40) of uint8" in printed
    share = float(re.search(r"background: (\d+)%", printed)[1])
    accuracy, iou = re.search(r"accuracy ([\d.]+)%, mean .* ([\d.]+)$", printed, re.M).groups()
    assert float(accuracy) > share + 5
    assert float(iou) > 0.5


def check_multi_label(printed, tmp_path):
    rows = re.findall(r"tags right ([\d.]+)%, .* yes ([\d.]+), true share ([\d.]+)", printed)
    (as_no, said_as_no, true), (masked, said, _) = (map(float, row) for row in rows)
    assert masked > 90
    assert masked > as_no + 20
    assert abs(said - true) < 0.05 < true - said_as_no


def check_policy_gradient(printed, tmp_path):
    steps = [float(number) for number in re.findall(r"stands for +([\d.]+)", printed)]
    assert steps[0] < 50
    assert steps[-1] > 180
    shares = re.findall(r"(\d+)% of the advantages", printed)
    assert shares
    assert all(int(share) > 0 for share in shares)


def check_sklearn_estimator(printed, tmp_path):
    assert "best of 10: {'softmaxclassifier__alpha'" in printed
    assert float(re.search(r"held-out log loss ([\d.]+)", printed)[1]) < 0.25


def check_evaluate_logits(printed, tmp_path):
    accuracy = float(re.search(r"^accuracy +([\d.]+) %$", printed, re.MULTILINE)[1])
    assert 65 < accuracy < 76  # three tokens of four are favoured; now and then another is best
    assert accuracy <= float(re.search(r"most probable tokens: ([\d.]+)%", printed)[1]) < 76


def check_temperature_calibration(printed, tmp_path):
    assert float(re.search(r"temperature ([\d.]+)", printed)[1]) > 1.2
    before, after = (
        [float(x) for x in re.findall(r"[\d.]+", line)] for line in printed.splitlines()[-2:]
    )
    assert before[0] == after[0]  # no prediction changes
    assert after[1] < before[1] - 0.1
    assert after[2] < before[2] / 2


def check_numba_trainer(printed, tmp_path):
    assert float(re.search(r"([\d.]+)% held-out accuracy", printed)[1]) >= 96


def check_ctypes_caller(printed, tmp_path):
    assert "the Python interface gives the same bits" in printed
    assert "status of a target of 1.5: 3; gradient written: False" in printed


def check_boosting_on_dask(printed, tmp_path):
    assert float(re.search(r"difference of raw scores: (\S+)", printed)[1]) < 1e-4
    assert float(re.search(r"on 2 workers: accuracy ([\d.]+)", printed)[1]) > 0.7


def check_xgboost_focal(printed, tmp_path):
    """Focal loss ranks about as well as the built-in objective; the published mistake guesses."""
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
    """The plain loss gives the built-in model; smoothing improves the accuracy, not the loss."""
    rows = re.findall(r"^(.+?) +accuracy ([\d.]+)   cross-entropy ([\d.]+)$", printed, re.M)
    built_in, plain, smoothed = ((float(a), float(c)) for _, a, c in rows)
    assert plain == built_in
    assert smoothed[0] > built_in[0] > 0.8
    assert smoothed[1] > built_in[1]
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
    """The same losses as with the whole logits, in a fraction of the memory."""
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


CHECKS = {name: check for name, check in globals().items() if name.startswith("check_")}
CHECKED_ELSEWHERE = {"mpi_trainer"}  # test_mpi_example.py


@pytest.mark.parametrize("example", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_example_runs(example, tmp_path):
    printed = run(example, tmp_path)
    assert printed.strip()
    if example.stem not in CHECKED_ELSEWHERE:
        CHECKS[f"check_{example.stem}"](printed, tmp_path)


def test_cython_trainer_builds_and_runs(tmp_path):
    shutil.copytree(EXAMPLES / "cython_trainer", tmp_path, dirs_exist_ok=True)
    run_script("setup.py", tmp_path, "build_ext", "--inplace")
    printed = run_script("train.py", tmp_path)
    rows = re.findall(r"training loss ([\d.]+), ([\d.]+)% held-out accuracy", printed)
    losses, accuracies = zip(*((float(a), float(b)) for a, b in rows), strict=True)
    assert len(losses) == 4
    assert list(losses) == sorted(losses, reverse=True)
    assert max(accuracies) >= 96


@pytest.mark.parametrize("loss", [None, fastce.SoftmaxFocalLoss(gamma=2.0)], ids=str)
def test_estimator_passes_the_common_tests_of_scikit_learn(loss, monkeypatch):
    checks = pytest.importorskip("sklearn.utils.estimator_checks")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    estimator = importlib.import_module("sklearn_estimator").SoftmaxClassifier(loss)
    with warnings.catch_warnings(action="ignore"):  # some checks give data on which it warns
        results = checks.check_estimator(estimator, on_fail=None)
    failed = [(r["check_name"], r["exception"]) for r in results if r["status"] == "failed"]
    assert not failed
    assert sum(result["status"] == "passed" for result in results) > 40


SOURCES = [path for path in sorted(EXAMPLES.rglob("*")) if path.suffix in (".py", ".pyx")]


@pytest.mark.parametrize("example", SOURCES, ids=lambda path: path.name)
def test_example_is_short(example):
    assert len(example.read_text(encoding="utf-8").splitlines()) < 100
