"""The curves are the losses: every drawn line is compared with the formula."""

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from processes import run

import fastce
from fastce.evaluation import evaluate
from fastce.plots import evaluation_curves, loss_curves

matplotlib.use("Agg")

X = np.linspace(-5, 5, 11)
SIGMOID = 1 / (1 + np.exp(-X))


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pyplot.close("all")


def line(ax, index=0):
    return ax.get_lines()[index].get_ydata()


@pytest.mark.parametrize("target", [0, 1, 0.25])
def test_bce(target):
    axes = loss_curves(fastce.BCEWithLogits(), target=target, logits=X, hessian=True)
    expected = np.logaddexp(0, X) - target * X, SIGMOID - target, SIGMOID * (1 - SIGMOID)
    assert len(axes) == 3
    for ax, curve in zip(axes, expected, strict=True):
        np.testing.assert_array_equal(ax.get_lines()[0].get_xdata(), X)
        np.testing.assert_allclose(line(ax), curve, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("target", [0, 1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_two_class_softmax_is_drawn_as_bce(target, reduction):
    softmax = fastce.SoftmaxCrossEntropy(reduction=reduction, axis=0)
    sigmoid = fastce.BCEWithLogits(reduction=reduction)
    for ax in loss_curves([softmax, sigmoid], target=target, logits=X, hessian=True):
        np.testing.assert_allclose(line(ax, 0), line(ax, 1), rtol=1e-12, atol=1e-15)


def test_focal_losses_agree():
    softmax = fastce.SoftmaxFocalLoss(gamma=1.5)
    sigmoid = fastce.SigmoidFocalLoss(gamma=1.5, alpha=None)
    for ax in loss_curves({"softmax": softmax, "sigmoid": sigmoid}, hessian=True):
        np.testing.assert_allclose(line(ax, 0), line(ax, 1), rtol=1e-10, atol=1e-14)
        assert len(line(ax)) == 401


def test_class_weights_show():
    plain, heavy = fastce.SoftmaxCrossEntropy(), fastce.SoftmaxCrossEntropy(weight=[1.0, 3.0])
    for ax in loss_curves([plain, heavy], logits=X):
        np.testing.assert_allclose(line(ax, 1), 3 * line(ax, 0), rtol=1e-12)


def test_labels_and_axes():
    loss = fastce.BCEWithLogits(label_smoothing=0.1)
    loss_axes, grad_axes = loss_curves(loss)
    assert loss_axes.get_lines()[0].get_label() == repr(loss)
    assert loss_axes.get_legend() is not None
    assert (loss_axes.get_ylabel(), grad_axes.get_ylabel()) == ("loss (nats)", "gradient")
    given = loss_axes.figure, grad_axes.figure
    again = loss_curves({"second": loss}, axes=(loss_axes, grad_axes))
    assert tuple(ax.figure for ax in again) == given
    assert [len(ax.get_lines()) for ax in again] == [2, 2]


def test_wrong_number_of_axes():
    axes = loss_curves(fastce.BCEWithLogits())
    with pytest.raises(ValueError, match="axes must be 3 axes, got 2"):
        loss_curves(fastce.BCEWithLogits(), hessian=True, axes=axes)


def test_refused_arguments():
    """Before anything is drawn."""
    ce, bce = fastce.SoftmaxCrossEntropy(), fastce.BCEWithLogits()
    for losses, options, error, message in (
        (ce, {"target": 0.5}, ValueError, "target must hold integer class labels, got 0.5"),
        (ce, {"target": 2}, IndexError, "the label 2"),
        (bce, {"target": 2}, ValueError, r"target must lie in \[0, 1\], got 2"),
        (bce, {"target": "a"}, TypeError, "target must be a real number, got 'a'"),
        (bce, {"logits": [1j]}, TypeError, "logits must be real numbers, got complex128"),
        (bce, {"axes": 5}, TypeError, "axes must be 2 axes, got int"),
        ([bce, 5], {}, TypeError, "loss must be one of .*, got 5"),
        (fastce.SoftmaxKLDivergence(), {}, TypeError, "loss must be one of .*KLDivergence"),
    ):
        with pytest.raises(error, match=message):
            loss_curves(losses, **options)
    for wrong in (5, {"a": None}, evaluate):
        with pytest.raises(TypeError, match="evaluations must be an Evaluation"):
            evaluation_curves(wrong)
    assert not pyplot.get_fignums()


def test_without_matplotlib():
    code = """
import sys
sys.modules["matplotlib"] = None
import fastce
from fastce.evaluation import evaluate
from fastce.plots import evaluation_curves, loss_curves
try:
    loss_curves(fastce.BCEWithLogits())
except ImportError as error:
    print(error)
"""
    message = run("-c", code).stdout.strip()
    assert message.startswith("matplotlib could not be imported")
    assert message.endswith("pip install 'fastce[plots]'")


def test_evaluation_curves_are_the_evaluations(rng):
    z = rng.normal(scale=3, size=(500, 12))
    target = (z / 2 + rng.gumbel(size=z.shape)).argmax(axis=1)
    before = evaluate(z, target, max_rank=6)
    after = evaluate(z, target, max_rank=6, temperature=2)
    reliability, shares, ranks = evaluation_curves({"before": before, "after": after})
    for i, result in enumerate((before, after)):
        confidence, accuracy, rows = result.reliability()
        drawn = reliability.get_lines()[i + 1]  # the first is the diagonal
        np.testing.assert_array_equal(drawn.get_xdata(), confidence[rows > 0])
        np.testing.assert_array_equal(drawn.get_ydata(), accuracy[rows > 0])
        np.testing.assert_allclose(shares.patches[i].get_data().values * 500, rows)
        np.testing.assert_allclose(line(ranks, i), [result.top_k(k) for k in range(1, 7)])
    texts = [text.get_text() for text in shares.get_legend().get_texts()]
    assert texts[1] == f"after: ECE {after.calibration_error:.3f}"


def test_the_plot_of_an_evaluation():
    result = evaluate(np.eye(4), [0, 1, 2, 2])
    figure = result.plot()
    assert len(figure.axes) == 3
    figure.canvas.draw()
    evaluate(np.zeros((0, 4)), np.zeros(0, int)).plot().canvas.draw()
    with pytest.raises(ValueError, match="3"):
        evaluation_curves(result, axes=figure.axes[:2])
