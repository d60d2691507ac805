"""The temperature with the smallest loss, by Newton's method: one read of the logits per step."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from fastce._call import checks_evaluation as checks
from fastce.evaluation._evaluate import checked, read
from fastce.evaluation._evaluation import Evaluation, readable

TOLERANCE = 1e-9  # of the temperature, relative: the next step would be about its square
MOST_STEPS = 100
NO_SPREAD = 1e-12  # variance of the logits below which probabilities no longer change


class Temperature(float):
    """A fitted temperature: a float with the evaluations before and after.

    `print` shows both as a table; in arithmetic and in formats, it is a number. NumPy treats it as
    float64: ``logits / float(temperature)`` keeps the dtype of float32 logits.

    Attributes
    ----------
    before, after : Evaluation
        Of the logits themselves, and of the logits divided by the temperature.
    reads : int
        How many times the logits were read: once more than the number of Newton steps.
    """

    before: Evaluation
    after: Evaluation
    reads: int

    def __new__(
        cls, value: float, before: Evaluation, after: Evaluation, reads: int
    ) -> Temperature:
        self = super().__new__(cls, value)
        self.before, self.after, self.reads = before, after, reads
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return Temperature, (float(self), self.before, self.after, self.reads)

    def __str__(self) -> str:
        lines = [f"{'temperature':<26}{float(self):.6g} ({self.reads} reads)"]
        lines.append(f"{'':<26}{'before':<16}after")
        rows = {
            "loss": "loss",
            "perplexity": "perplexity",
            "entropy": "entropy",
            "Brier score": "brier",
            "calibration error": "calibration_error",
            "largest of a bin": "max_calibration_error",
        }
        for name, attribute in rows.items():
            before, after = (
                readable(x) if name == "perplexity" else f"{x:.5f}"
                for x in (getattr(self.before, attribute), getattr(self.after, attribute))
            )
            lines.append(f"{name:<26}{before:<16}{after}")
        return "\n".join(lines)


def fit_temperature(
    logits: npt.ArrayLike,
    target: npt.ArrayLike,
    *,
    axis: int = -1,
    ignore_index: int = -100,
    bins: int = 15,
    max_rank: int = 100,
) -> Temperature:
    """Return the temperature T for which softmax(logits / T) has the smallest loss.

    With b = 1/T and u = bz, the derivative of a row's loss with respect to log b is E_p[u] − u_y,
    the loss minus the entropy, and b² times the second derivative with respect to b is the variance
    of u under p. So each Newton step takes one read of the logits. The loss is convex in b.
    Exponentials and sums are computed in float64, whatever the dtype of the logits.

    Fit it on rows that the classifier was not trained on, and report results on yet others.

    Parameters
    ----------
    logits, target, axis, ignore_index, bins, max_rank
        As for `evaluate`.

    Returns
    -------
    Temperature
        A float, with the evaluations before and after.

    Raises
    ------
    TypeError, ValueError, IndexError
        As for `evaluate`; also if no temperature is best. Then the loss keeps falling as T tends
        to 0, because each target has the largest logit of its row, or as T grows, because the
        logits favour other classes than the targets; or it is infinite or NaN.

    References
    ----------
    Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from fastce.evaluation import fit_temperature
    >>> logits = np.array([[4.0, 0.0]] * 4)  # 98 % sure, and right three times out of four
    >>> temperature = fit_temperature(logits, [0, 0, 0, 1])
    >>> print(f"{temperature:.6f} {4 / np.log(3):.6f}")
    3.640957 3.640957
    >>> print(temperature)
    temperature               3.64096 (7 reads)
                              before          after
    loss                      1.01815         0.56234
    perplexity                2.768           1.755
    entropy                   0.09009         0.56234
    Brier score               0.48266         0.37500
    calibration error         0.23201         0.00000
    largest of a bin          0.23201         0.00000
    """
    z, y, options = checked(logits, target, axis, ignore_index, bins, max_rank)
    return minimise(lambda t: read(z, y, options, t, double_precision=True))


def minimise(evaluate_at: Callable[[float], Evaluation]) -> Temperature:
    """Fit a temperature, given what evaluates one."""
    before = now = evaluate_at(1.0)
    has_minimum(before)
    temperature = 1.0
    for reads in range(1, MOST_STEPS + 1):
        # With b = 1/T: the loss's derivative by log b, and b² times the second one by b.
        slope = now.rows * (now.loss - now.entropy)
        curvature = sum(now.variance_sum)
        if not curvature > NO_SPREAD * now.rows:
            break
        # Where b is too large, a step of log b is short enough not to leave b > 0; where it is too
        # small, one of b does not go too far: the derivative by b grows ever less.
        step = slope / (curvature + slope) if slope > 0 else -math.log1p(-slope / curvature)
        if abs(step) <= TOLERANCE:
            return Temperature(temperature, before, now, reads)
        temperature *= math.exp(step)
        now = evaluate_at(temperature)
    checks.no_temperature(
        "it falls for ever as the temperature grows, since the logits favour other classes than the"
        " targets"
        if temperature > 1
        else "it falls for ever as the temperature tends to 0"
    )


def has_minimum(before: Evaluation) -> None:
    """Refuse what Newton's method would never end at."""
    if before.rows == 0:
        checks.no_temperature("no row counts")
    if before.invalid:
        checks.no_temperature(f"{before.invalid} rows have no softmax")
    if math.isinf(before.loss):
        checks.no_temperature("it is infinite, for a target has the logit -inf")
    if before.rank_rows[0] == before.rows:
        checks.no_temperature(
            "it falls for ever as the temperature tends to 0, since every target has the largest"
            " logit of its row"
        )
