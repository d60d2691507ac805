"""Plots of losses and evaluations. They need matplotlib, which is an optional dependency."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastce._call import checks, checks_bridges
from fastce._call.layout import Array
from fastce.evaluation import Evaluation
from fastce.losses import BCEWithLogits, SigmoidFocalLoss, SoftmaxCrossEntropy, SoftmaxFocalLoss

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["evaluation_curves", "loss_curves"]


LOSSES = SoftmaxCrossEntropy, SoftmaxFocalLoss, BCEWithLogits, SigmoidFocalLoss
QUANTITIES = ("loss (nats)", "gradient", "Hessian")


def loss_curves(
    losses: Any,
    *,
    target: float = 1,
    logits: npt.ArrayLike | None = None,
    hessian: bool = False,
    axes: Iterable[Axes] | None = None,
) -> list[Axes]:
    """Plot the loss and its gradient against the logit, with one curve per loss.

    For a sigmoid loss, the logit is z, and p = σ(z). For a softmax loss there are two classes with
    logits (0, z), so that the probability of class 1 is also σ(z), and the gradient is the one with
    respect to z. Curves show per-sample values; the reduction of the loss is ignored.

    Parameters
    ----------
    losses : loss, sequence of losses, or mapping from labels to losses
        What to plot: any loss except `SoftmaxKLDivergence`. A loss without a label is labelled with
        the call that makes it.
    target : float, default 1
        The target: 0 or 1, or for sigmoid losses any number between them.
    logits : array_like of shape (N,), optional
        Ascending logits; 401 points from −8 to 8 by default.
    hessian : bool, default False
        Whether to plot the second derivative too.
    axes : iterable of matplotlib axes, optional
        Two axes, or three with ``hessian``. A new figure by default.

    Returns
    -------
    list of matplotlib axes
        The axes of the loss, the gradient and, with ``hessian``, the Hessian.

    Raises
    ------
    ImportError
        If matplotlib is not installed; the message says how to install it.
    TypeError
        If a loss or another argument is of a type that is not accepted.
    ValueError, IndexError
        If the number of axes is wrong, or the target is not one of the loss's.

    Examples
    --------
    >>> import fastce
    >>> from fastce.plots import loss_curves
    >>> bce, focal = fastce.BCEWithLogits(), fastce.SigmoidFocalLoss(gamma=2.0, alpha=None)
    >>> loss_axes, grad_axes = loss_curves({"cross-entropy": bce, "focal, γ = 2": focal})
    >>> [line.get_label() for line in loss_axes.get_lines()]
    ['cross-entropy', 'focal, γ = 2']
    """
    x = np.linspace(-8, 8, 401)
    if logits is not None:
        x = checks.real("logits", logits).astype(np.float64)
    target = checks.number("target", target)
    curves = {label: per_sample(loss, x, target) for label, loss in labelled(losses).items()}
    quantities = QUANTITIES if hessian else QUANTITIES[:2]
    axes = drawn_on(axes, len(quantities))
    for label, of_loss in curves.items():
        for ax, curve in zip(axes, of_loss, strict=False):
            ax.plot(x, curve, label=label)
    for ax, quantity in zip(axes, quantities, strict=True):
        ax.set(xlabel="logit z", ylabel=quantity)
    axes[0].legend()
    return axes


def evaluation_curves(evaluations: Any, *, axes: Iterable[Axes] | None = None) -> list[Axes]:
    """Plot how reliable a classifier's probabilities are, and the ranks of its targets.

    The first panel shows the accuracy of each bin against its mean confidence. On the diagonal, a
    classifier that is 80 % sure is right four times out of five; below it, it is over-confident.
    The second shows the share of rows in each bin, and the expected calibration error (ECE). The
    third shows the accuracy among the k most probable classes against k.

    Parameters
    ----------
    evaluations : Evaluation, or mapping from labels to evaluations
        What to draw, all in the same axes.
    axes : iterable of three matplotlib axes, optional
        Where to draw. A new figure by default.

    Returns
    -------
    list of matplotlib axes
        The axes of the three panels.

    Raises
    ------
    ImportError
        If matplotlib is not installed; the message says how to install it.
    TypeError
        If a value is not an evaluation.
    ValueError
        If the number of axes is wrong.

    Examples
    --------
    >>> import numpy as np
    >>> from fastce.evaluation import evaluate
    >>> from fastce.plots import evaluation_curves
    >>> logits = np.random.default_rng(0).normal(size=(100, 10))
    >>> target = logits.argmax(axis=1)
    >>> before, after = (evaluate(logits, target, temperature=t) for t in (1, 3))
    >>> reliability, shares, ranks = evaluation_curves({"before": before, "T = 3": after})
    >>> [line.get_label() for line in ranks.get_lines()]
    ['before', 'T = 3']
    """
    drawn = evaluations if isinstance(evaluations, Mapping) else {"": evaluations}
    for evaluation in drawn.values():
        if not isinstance(evaluation, Evaluation):
            accepted = "an Evaluation, or a mapping from labels to Evaluations"
            checks_bridges.host_type("evaluations", accepted, type(evaluation).__name__)
    reliability, shares, ranks = axes = drawn_on(axes, 3)
    reliability.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1)
    for label, evaluation in drawn.items():
        confidence, accuracy, rows = evaluation.reliability()
        filled = rows > 0
        reliability.plot(confidence[filled], accuracy[filled], marker="o", label=label)
        shares.stairs(
            rows / max(evaluation.rows, 1),
            np.linspace(0, 1, evaluation.bins + 1),
            label=f"{label}{': ' if label else ''}ECE {evaluation.calibration_error:.3f}",
            linewidth=1.5,
        )
        k = np.arange(1, evaluation.max_rank + 1)
        among = np.cumsum(evaluation.rank_rows[:-1]) / max(evaluation.rows, 1)
        ranks.plot(k, among, label=label)
    reliability.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    shares.set(xlabel="confidence", ylabel="share of rows", xlim=(0, 1))
    ranks.set(xlabel="k", ylabel="accuracy among the first k", xscale="log")
    shares.set_ylim(0, 1.1 * shares.get_ylim()[1] + 0.12 * len(drawn))  # room for the legend
    shares.legend(loc="upper left")
    return axes


def drawn_on(axes: Iterable[Axes] | None, count: int) -> list[Axes]:
    """Return the axes to draw on: those given, or those of a new figure."""
    if axes is not None:
        return checks_bridges.drawn_on(axes, count)
    try:
        from matplotlib import pyplot
    except ImportError as error:
        checks_bridges.missing_host("matplotlib", "plots", error)
    _, axes = pyplot.subplots(1, count, figsize=(4.5 * count, 3.4), layout="constrained")
    return list(axes)


def labelled(losses: Any) -> dict[str, Any]:
    if isinstance(losses, Mapping):
        return dict(losses)
    return {repr(loss): loss for loss in (losses if isinstance(losses, Iterable) else [losses])}


def per_sample(loss: Any, x: Array, target: float) -> tuple[Array, Array, Array]:
    """Return the loss and its two derivatives at each logit of ``x``."""
    checks_bridges.one_of_losses(loss, LOSSES)
    loss = dataclasses.replace(loss, reduction="none")
    every = np.full(x.shape, target)
    if not hasattr(loss, "axis"):  # a sigmoid loss: one logit per element
        value, grad, hess = loss.value_grad_hess(x, every)
        return value, grad, hess
    loss = dataclasses.replace(loss, axis=-1)
    two = np.stack([np.zeros_like(x), x], axis=-1)
    value, grad, hess = loss.value_grad_hess(two, checks_bridges.integral_labels(every))
    return value, grad[..., 1], hess[..., 1]
