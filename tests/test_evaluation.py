"""Evaluations: against plain NumPy, by identities, and as values that merge and travel."""

from __future__ import annotations

import copy
import json
import math
import pickle

import ml_dtypes
import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn.metrics import brier_score_loss, log_loss, top_k_accuracy_score

import fastce
from fastce import reference
from fastce.evaluation import Evaluation, Temperature, evaluate, fit_temperature

SUMS = ("loss_sum", "entropy_sum", "brier_sum", "variance_sum")


@pytest.fixture
def problem(rng):
    """An over-confident classifier: targets are drawn at a temperature of 2.5."""
    z = rng.normal(scale=3, size=(700, 12))
    return z, (z / 2.5 + rng.gumbel(size=z.shape)).argmax(axis=1)


def assert_same(a, b, rel=1e-12):
    """Counts exactly, sums up to rounding."""
    for name in ("rows", "ignored", "invalid", "correct", "bin_rows", "bin_correct", "rank_rows"):
        assert getattr(a, name) == getattr(b, name), name
    for name in SUMS:
        assert sum(getattr(a, name)) == pytest.approx(sum(getattr(b, name)), rel=rel), name
    for x, y in zip(a.bin_confidence, b.bin_confidence, strict=True):
        assert sum(x) == pytest.approx(sum(y), rel=rel)


# What it says -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_numpy_and_scikit_learn(dtype, problem):
    z, y = problem[0].astype(dtype), problem[1]
    result = evaluate(z, y)
    wide = z.astype(np.float64)
    p, rows = reference.row_statistics(wide, y), np.arange(len(y))
    rel = 1e-12 if dtype == np.float64 else 1e-6
    assert result.rows == 700
    assert result.loss == pytest.approx(
        log_loss(y, reference.softmax(wide), labels=range(12)), rel=rel
    )
    assert result.loss == pytest.approx(fastce.SoftmaxCrossEntropy()(z, y), rel=rel)
    assert result.perplexity == pytest.approx(math.exp(result.loss), rel=1e-14)
    assert result.accuracy == (wide.argmax(axis=1) == y).mean()
    assert result.entropy == pytest.approx(p.entropy.mean(), rel=rel)
    brier = brier_score_loss(y, reference.softmax(wide), scale_by_half=False, labels=range(12))
    assert result.brier == pytest.approx(brier, rel=rel)
    assert sum(result.variance_sum) == pytest.approx(p.variance.sum(), rel=rel)
    assert sum(map(sum, result.bin_confidence)) == pytest.approx(p.top_prob.sum(), rel=rel)
    ranks = (wide > wide[rows, y][:, None]).sum(axis=1)
    if dtype == np.float64:  # others have ties
        np.testing.assert_array_equal(p.rank, ranks)
    for k in (1, 2, 5, 11):
        assert result.top_k(k) == (p.rank < k).mean()
    assert result.top_k(500) == 1.0  # no target has so many classes before it


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_error_by_its_formula(bins, problem):
    z, y = problem
    result = evaluate(z, y, bins=bins)
    p = fastce.softmax(z).max(axis=1)
    right = z.argmax(axis=1) == y
    gaps, shares = [], []
    for b in range(bins):
        inside = (p >= b / bins) & ((p < (b + 1) / bins) | (b == bins - 1))
        if inside.any():
            gaps.append(abs(right[inside].mean() - p[inside].mean()))
            shares.append(inside.mean())
    assert result.calibration_error == pytest.approx(np.dot(gaps, shares), rel=1e-12)
    assert result.max_calibration_error == pytest.approx(max(gaps), rel=1e-12)
    confidence, accuracy, rows = result.reliability()
    assert rows.sum() == 700
    assert np.isnan(confidence[rows == 0]).all()
    filled = rows > 0
    assert (accuracy[filled] * rows[filled]).sum() == pytest.approx(700 * result.accuracy)


def test_confidence_of_one_is_in_the_last_bin():
    result = evaluate(np.array([[200.0, 0.0], [0.0, 200.0]]), [0, 0])
    assert result.bin_rows == (0,) * 14 + (2,)
    assert result.calibration_error == pytest.approx(0.5)


def test_a_confidence_at_an_edge_is_in_the_bin_above():
    for classes in (2, 4):
        result = evaluate(np.zeros((3, classes)), [0, 1, 1], bins=4)
        assert result.bin_rows == tuple(3 * (b == 4 // classes) for b in range(4))


def test_top_k_as_scikit_learn_counts_ties(rng):
    z = rng.integers(3, size=(400, 9)).astype(float)
    y = rng.integers(9, size=400)
    result = evaluate(z, y)
    for k in range(1, 9):
        expected = top_k_accuracy_score(y, z, k=k, labels=range(9))
        assert result.top_k(k) == pytest.approx(expected, abs=1e-15)
    # The first of several largest logits is the prediction, and top_k(1) takes the last.
    assert result.accuracy == (z.argmax(axis=1) == y).mean()
    assert result.top_k(1) == (8 - z[:, ::-1].argmax(axis=1) == y).mean()


def test_brier_keeps_its_digits_where_the_classifier_is_sure():
    z = np.array([[40.0, 0.0, 1.0]])
    p, q = math.exp(-40), math.exp(-39)
    expected = (p + q) ** 2 + p * p + q * q
    assert evaluate(z, [0]).brier == pytest.approx(expected, rel=1e-13)
    assert evaluate(z, [1]).brier == pytest.approx(2.0, rel=1e-13)


def test_max_rank(problem):
    z, y = problem
    whole, short = evaluate(z, y), evaluate(z, y, max_rank=3)
    assert short.max_rank == 3
    assert short.top_k(3) == whole.top_k(3)
    assert sum(short.rank_rows) == 700
    with pytest.raises(ValueError, match="k must be from 1 to 3"):
        short.top_k(4)
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        short.top_k(0)
    with pytest.raises(TypeError, match="k must be an integer"):
        short.top_k(1.5)


def test_entropy_is_the_loss_that_is_expected(rng):
    """The expectation is over targets that are drawn from p."""
    z = rng.normal(size=(1, 5))
    p = fastce.softmax(z)[0]
    results = [evaluate(z, [j]) for j in range(5)]
    assert np.dot(p, [r.loss for r in results]) == pytest.approx(results[0].entropy, rel=1e-13)


def test_every_temperature(problem):
    z, y = problem
    for t in (0.3, 2.0, 1000.0):
        assert_same(evaluate(z, y, temperature=t), evaluate(z / t, y), rel=1e-9)
    assert evaluate(z, y, temperature=1e9).loss == pytest.approx(math.log(12), rel=1e-8)


def test_a_temperature_that_takes_float32_out_of_its_range():
    z = np.array([[1e38, 0.0], [0.0, 1.0]], np.float32)
    assert evaluate(z, [0, 0], temperature=0.01).loss == pytest.approx(50.0)


# Rows that do not count, and rows without a softmax -----------------------------------------------


def test_ignored_rows(problem):
    z, y = problem
    y = y.copy()
    y[::3] = -100
    z[0] = np.nan
    kept = y != -100
    result = evaluate(z, y)
    assert_same(result, evaluate(z[kept], y[kept]) + evaluate(z[~kept], y[~kept]))
    assert result.rows == kept.sum()
    assert result.ignored == (~kept).sum()
    other = evaluate(z, np.where(kept, y, -1), ignore_index=-1)
    assert other == result
    assert evaluate(z, y, ignore_index=-100).loss == pytest.approx(
        fastce.SoftmaxCrossEntropy()(z, y), rel=1e-12
    )


def test_nothing():
    for result in (
        evaluate(np.zeros((0, 4)), np.zeros(0, int)),
        evaluate(np.zeros((3, 4)), [-100] * 3),
        evaluate(np.zeros((2, 0)), [-100] * 2),
    ):
        assert result.rows == 0
        for name in ("loss", "perplexity", "accuracy", "entropy", "brier", "calibration_error"):
            assert math.isnan(getattr(result, name)), name
        assert math.isnan(result.top_k(1))
        assert str(result).startswith("rows                      0")
        assert Evaluation.from_json(result.to_json()) == result


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_without_a_softmax(bad, problem):
    z, y = problem
    z[5, 3] = bad
    z[6] = -np.inf
    result = evaluate(z, y)
    good = np.delete(np.arange(700), [5, 6])
    rest = evaluate(z[good], y[good])
    assert result.invalid == 2
    assert result.rows == 700
    assert result.correct == rest.correct
    assert result.top_k(3) == pytest.approx(rest.top_k(3) * 698 / 700)
    for name in ("loss", "perplexity", "entropy", "brier", "calibration_error"):
        assert math.isnan(getattr(result, name)), name
    assert math.isnan(result.max_calibration_error)
    assert "without a softmax         2" in str(result)
    assert json.loads(result.to_json())["loss"] is None


def test_a_target_of_probability_zero():
    result = evaluate(np.array([[0.0, -np.inf], [0.0, 1.0]]), [1, 1])
    assert result.loss == result.perplexity == math.inf
    assert result.brier < 2
    assert Evaluation.from_json(result.to_json()) == result
    assert (result + result).loss == math.inf


def test_probabilities_that_vanish_are_no_errors_of_numpy():
    z, y = np.array([[1000.0, 0.0]] * 4), [0, 0, 0, 1]
    expected = evaluate(z, y), fit_temperature(z, y)
    with np.errstate(all="raise"):
        assert (evaluate(z, y), fit_temperature(z, y)) == expected


def test_one_class():
    result = evaluate(np.full((3, 1), 7.0), [0, 0, 0])
    assert (result.loss, result.entropy, result.brier) == (0.0, 0.0, 0.0)
    assert result.accuracy == result.top_k(1) == 1.0
    assert result.calibration_error == 0.0


# How it merges ------------------------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [[100, 350], [1], [0, 700], list(range(50, 700, 50))])
def test_merged_is_whole(pieces, problem, rng):
    z, y = problem
    y[:3] = -100
    whole = evaluate(z, y)
    parts = [evaluate(a, b) for a, b in zip(np.split(z, pieces), np.split(y, pieces), strict=True)]
    assert_same(sum(parts), whole)
    rng.shuffle(parts)
    assert_same(sum(parts), whole)


def test_sums_carry_their_rounding_errors(rng):
    """A thousand merges lose nothing that a double has."""
    small = evaluate(np.array([[0.1, 0.0]]), [0])
    large = evaluate(np.array([[1e8, 0.0]]), [1])
    total = large
    for _ in range(1000):
        total = total + small
    assert sum(total.loss_sum) - 1e8 == pytest.approx(1000 * small.loss, rel=1e-7)
    high, low = total.loss_sum
    assert (high - 1e8) + low == pytest.approx(1000 * small.loss, rel=1e-11)


def test_blocks_and_axes(problem, monkeypatch):
    z, y = problem
    whole = evaluate(z, y)
    monkeypatch.setattr("fastce.evaluation._evaluate.BLOCK_ROWS", 64)
    assert_same(evaluate(z, y), whole)
    shaped, labels = z.reshape(7, 5, 20, 12), y.reshape(7, 5, 20)
    assert_same(evaluate(shaped, labels), whole)
    assert_same(evaluate(np.moveaxis(shaped, -1, 1), labels, axis=1), whole)
    assert_same(evaluate(z[0], y[0]), evaluate(z[:1], y[:1]))
    assert_same(evaluate(z.tolist(), y.tolist()), whole)


def test_evaluations_that_do_not_merge(problem):
    z, y = problem
    result = evaluate(z, y)
    with pytest.raises(ValueError, match="same bins, got 15 and 10"):
        result + evaluate(z, y, bins=10)
    with pytest.raises(ValueError, match="same max_rank, got 100 and 5"):
        result + evaluate(z, y, max_rank=5)
    for other in (1, 0.0, None, "x"):
        with pytest.raises(TypeError):
            result + other
        with pytest.raises(TypeError):
            other + result


def test_it_travels(problem):
    z, y = problem
    result = evaluate(z, y)
    assert pickle.loads(pickle.dumps(result)) == result
    assert copy.deepcopy(result) == result
    assert hash(result) == hash(evaluate(z, y))
    assert Evaluation.from_json(result.to_json()) == result
    said = json.loads(result.to_json())
    assert said["perplexity"] == result.perplexity
    assert said["top_5"] == result.top_k(5)
    for text in ("", "{}", "[1]", "[" * 100_000, '{"state": {}}'):
        with pytest.raises(ValueError, match=r"JSON that Evaluation\.to_json wrote"):
            Evaluation.from_json(text)


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"axis": 2}, np.exceptions.AxisError, "axis=2 is out of bounds"),
        ({"bins": 0}, ValueError, "bins must be at least 1, got 0"),
        ({"bins": 1.5}, TypeError, "bins must be an integer"),
        ({"max_rank": 0}, ValueError, "max_rank must be at least 1, got 0"),
        ({"bins": 2**62}, ValueError, r"bins must be less than 2\*\*24, got 4611686018427387904"),
        ({"max_rank": 2**63 - 1}, ValueError, r"max_rank must be less than 2\*\*24, got 922"),
        ({"ignore_index": 0.5}, TypeError, "ignore_index must be an integer"),
        ({"temperature": 0}, ValueError, "temperature must be finite and greater than 0"),
        ({"temperature": "x"}, TypeError, "temperature must be a real number"),
        ({"target": [0, 1]}, ValueError, r"class labels must have shape \(3,\)"),
        ({"target": [0.0, 1, 1]}, TypeError, "target must be integer class labels"),
        ({"target": [0, 4, 0]}, IndexError, r"label 4 at position 1, but the labels of 4 classes"),
        ({"target": [True, False, True]}, TypeError, r"labels of shape \(3,\), got bool"),
        ({"logits": np.zeros((3, 4), int)}, TypeError, "logits must be float16"),
        ({"logits": np.zeros((3, 0))}, IndexError, "label 0 at position 0, but there are no cl"),
        ({"temperature": 1e-320}, ValueError, "temperature must have a finite reciprocal"),
    ],
)
def test_refusals(arguments, error, message):
    call = {"logits": np.zeros((3, 4)), "target": [0, 1, 2], **arguments}
    with pytest.raises(error, match=message):
        evaluate(**call)
    if "temperature" not in arguments:
        with pytest.raises(error, match=message):
            fit_temperature(**call)


def test_the_position_of_a_bad_label_is_in_the_whole_array(monkeypatch):
    monkeypatch.setattr("fastce.evaluation._evaluate.BLOCK_ROWS", 4)
    y = np.zeros(20, int)
    y[17] = 9
    with pytest.raises(IndexError, match="label 9 at position 17"):
        evaluate(np.zeros((20, 4)), y)


# Temperature --------------------------------------------------------------------------------------


def best_by_scipy(z, y):
    """The root of the slope, which grows; a minimiser sees the loss only up to its rounding."""

    def slope(b):
        return np.sum(fastce.softmax(z * b) * z) - z[np.arange(len(y)), y].sum()

    return 1 / brentq(slope, 1e-3, 50, xtol=1e-14, rtol=1e-14)


@pytest.mark.parametrize("scale", [0.05, 0.4, 1.0, 4.0])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_fit_temperature_agrees_with_scipy(scale, dtype, problem):
    z, y = (problem[0] * scale).astype(dtype), problem[1]
    temperature = fit_temperature(z, y)
    assert isinstance(temperature, float)
    assert temperature == pytest.approx(best_by_scipy(z.astype(float), y), rel=1e-8)
    assert temperature.reads <= 8
    assert_same(temperature.before, evaluate(z.astype(float), y), rel=1e-9)
    after = evaluate(z.astype(float), y, temperature=temperature)
    assert_same(temperature.after, after, rel=1e-9)
    # At the optimum, the expected loss is the actual loss.
    assert after.loss == pytest.approx(after.entropy, rel=1e-8)
    assert after.loss <= temperature.before.loss


def test_a_fit_prints_and_travels(problem):
    z, y = problem
    temperature = fit_temperature(z, y)
    for copied in (pickle.loads(pickle.dumps(temperature)), copy.deepcopy(temperature)):
        assert type(copied) is Temperature
        assert copied == temperature
        assert copied.after == temperature.after
    text = str(temperature)
    assert f"{temperature.before.loss:.5f}" in text
    assert f"{temperature.after.calibration_error:.5f}" in text
    assert f"{temperature:.3f}" == f"{float(temperature):.3f}"


@pytest.mark.parametrize(
    ("z", "y", "message"),
    [
        ([[2.0, 0.0], [0.0, 1.0]], [0, 1], "tends to 0, because every target has the largest"),
        ([[0.0, 0.0], [0.0, 1.0]], [0, 1], "tends to 0"),
        ([[2.0, 0.0], [0.0, 1.0]], [1, 0], "as the temperature grows"),
        ([[0.0, 0.0]], [0], "probabilities do not change with it"),
        ([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]], [0, 1, 0], "tends to 0"),
        ([[7.0, 7.0], [1.0, 1.0]], [0, 1], "probabilities do not change with it"),
        ([[1.0, 0.0], [1.0, 0.0]], [0, 1], "as the temperature grows"),
        ([[0.0, -np.inf], [0.0, 1.0]], [1, 0], "infinite, because a target has the logit -inf"),
        ([[0.0, np.nan], [0.0, 1.0]], [1, 0], "1 rows have no softmax"),
        ([[0.0, 1.0]], [-100], "there are no rows, or all are ignored"),
    ],
)
def test_no_temperature(z, y, message):
    with pytest.raises(ValueError, match=f"no temperature minimises the loss: .*{message}"):
        fit_temperature(np.array(z), y)


@pytest.mark.parametrize("scale", [1e-150, 1e-8, 1e-3, 1e3, 1e20, 1e300])
def test_the_temperature_of_scaled_logits_is_scaled(scale, problem):
    """Whether probabilities at T = 1 are all next to 0 and 1, or next to each other."""
    z, y = problem
    temperature = fit_temperature(scale * z, y)
    assert temperature / scale == pytest.approx(fit_temperature(z, y), rel=1e-8)
    assert temperature.reads <= 10


@pytest.mark.parametrize("scale", [1e-100, 1.0, 1e100, 1e200])
def test_logits_without_a_best_temperature_of_any_scale(scale, problem):
    z = problem[0]
    with pytest.raises(ValueError, match="as the temperature grows"):
        fit_temperature(scale * z, z.argmin(axis=1))
    with pytest.raises(ValueError, match="tends to 0, because every target has the largest"):
        fit_temperature(scale * z, z.argmax(axis=1))


def test_one_row_that_is_surely_wrong():
    """Next to 99 that are surely right; at T = 1, the loss of all of them is flat."""
    z, y = np.array([[1000.0, 0.0]] * 100), [0] * 99 + [1]
    assert fit_temperature(z, y) == pytest.approx(1000 / np.log(99), rel=1e-8)


def test_a_weak_signal(rng):
    """Targets that hardly depend on the logits: the best temperature is far from 1."""
    z = rng.normal(size=(20_000, 3))
    y = (z / 50 + rng.gumbel(size=z.shape)).argmax(axis=1)
    temperature = fit_temperature(z, y)
    assert temperature > 20
    # The slope of the loss along log T, and what it would have to be for an error of 1e-8.
    after = temperature.after
    slope = sum(after.loss_sum) - sum(after.entropy_sum)
    assert abs(slope) <= 1e-8 * sum(after.variance_sum)


@pytest.mark.parametrize(
    "change",
    [
        {"loss_sum": [1.0]},
        {"bin_rows": 5},
        {"rows": "many"},
        {"rows": 1.5},
        {"correct": -1},
        {"correct": 0},
        {"rows": 1, "correct": 2, "bin_rows": [1] + [0] * 14, "bin_correct": [2] + [0] * 14}
        | {"rank_rows": [1, 0]},
        {"rank_rows": [1, 2]},
        {"bin_correct": [0]},
        {"loss_sum": [10**400, 0]},
        {"rows": 0, "bin_rows": [0] * 15, "rank_rows": []},
        {"rows": 0, "bin_rows": [], "bin_correct": [], "bin_confidence": [], "rank_rows": [0, 0]},
    ],
)
def test_json_of_something_else(change, problem):
    said = json.loads(evaluate(*problem).to_json())
    said["state"] |= change
    with pytest.raises(ValueError, match=r"JSON that Evaluation\.to_json wrote"):
        Evaluation.from_json(json.dumps(said))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 4, 5, 8, 10, 20, 32, 100])
def test_equal_classes_are_in_one_bin_at_any_level(classes, dtype, rng):
    """Their probability is 1/classes, up to rounding, which is where a bin begins."""
    levels = rng.uniform(-9, 9, (400, 1)).astype(dtype)
    result = evaluate(np.tile(levels, (1, classes)), np.zeros(400, int), bins=classes)
    assert result.bin_rows[1] == 400


@pytest.mark.parametrize(("classes", "parts"), [(3, 15), (5, 2), (7, 3), (10, 7), (49, 5)])
def test_equal_classes_are_in_the_bin_that_begins_at_their_probability(classes, parts):
    """For any number of bins: part / (classes * part) is 1 / classes."""
    for part in range(1, parts + 1):
        result = evaluate(np.zeros((1, classes)), [0], bins=classes * part)
        assert result.bin_rows[part] == 1
