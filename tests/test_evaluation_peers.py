"""Calibration errors compared with torchmetrics and netcal, on a real classifier of digits.

For what scikit-learn computes as well, see tests/test_evaluation.py.
"""

from __future__ import annotations

import pytest
from sklearn import datasets, linear_model, model_selection

import fastce
from fastce.evaluation import evaluate, fit_temperature


@pytest.fixture(scope="module")
def digits():
    """Logits of a linear classifier that overfits a small training set, and the labels."""
    x, y = datasets.load_digits(return_X_y=True)
    seen, unseen, of_seen, labels = model_selection.train_test_split(
        x, y, test_size=0.7, random_state=0
    )
    model = linear_model.LogisticRegression(C=100, max_iter=3000).fit(seen, of_seen)
    return model.decision_function(unseen), labels


@pytest.mark.parametrize("bins", [10, 15, 50])
def test_calibration_error_of_torchmetrics(bins, digits):
    pytest.importorskip("torchmetrics")
    import torch
    from torchmetrics.classification import MulticlassCalibrationError
    from torchmetrics.functional.classification.calibration_error import _ce_compute

    z, y = digits
    result = evaluate(z, y, bins=bins)
    p, labels = torch.from_numpy(fastce.softmax(z)), torch.from_numpy(y)
    for norm, own in (("l1", result.calibration_error), ("max", result.max_calibration_error)):
        confidence, prediction = p.max(dim=1)
        right = (prediction == labels).to(p.dtype)
        expected = _ce_compute(confidence, right, bins, norm)
        assert own == pytest.approx(float(expected), rel=1e-9)
        # The metric itself adds up in float32.
        metric = MulticlassCalibrationError(10, n_bins=bins, norm=norm)
        assert own == pytest.approx(float(metric(p.float(), labels)), abs=2e-6)


@pytest.mark.parametrize("bins", [10, 15])
def test_calibration_error_of_netcal(bins, digits):
    netcal = pytest.importorskip("netcal.metrics")
    z, y = digits
    result, p = evaluate(z, y, bins=bins), fastce.softmax(z)
    assert result.calibration_error == pytest.approx(netcal.ECE(bins).measure(p, y), rel=1e-9)
    assert result.max_calibration_error == pytest.approx(netcal.MCE(bins).measure(p, y), rel=1e-9)


@pytest.mark.parametrize("scale", [0.1, 0.5, 1, 3])
def test_a_real_fit_takes_eight_steps_at_most(scale, digits):
    z, y = digits
    temperature = fit_temperature(z * scale, y)
    assert temperature.reads - 1 <= 8
    assert float(temperature) == pytest.approx(scale * fit_temperature(z, y), rel=1e-8)
    if scale >= 1:  # over-confident
        assert temperature.after.calibration_error < temperature.before.calibration_error
