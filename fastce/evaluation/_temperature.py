"""The temperature with the smallest loss, by Newton's method: each step reads the logits once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from fastce._call import checks_evaluation as checks
from fastce.evaluation._evaluate import checked, read
from fastce.evaluation._evaluation import Evaluation, added, readable

TOLERANCE = 1e-9  # relative change of the temperature; the next would be about its square
MOST_STEPS = 100
FLAT = 1e-12  # variance of the logits over T below which probabilities hardly change with T
NOISE = 1e-13  # a slope that rounding leaves, for losses of about 1
SMALLEST, LARGEST = 1e-306, 1e306  # temperatures whose reciprocals are finite and normal numbers
FAR = 1e4  # least factor of the temperature if the loss is flat and falling


class Temperature(float):
    """A fitted temperature: a float with the evaluations before and after.

    `print` shows both as a table, and so does a plain ``{}`` in a format. In arithmetic and in
    formats such as ``{:.3f}``, it is a number. NumPy treats it as float64: ``logits /
    float(temperature)`` keeps the dtype of float32 logits.

    Attributes
    ----------
    before, after : Evaluation
        The evaluations of the logits themselves, and of the logits divided by the temperature.
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
    of u under p. So each Newton step reads the logits once. The loss is convex in b.
    Exponentials and sums are computed in float64, whatever the dtype of the logits.

    Fit it on rows that the classifier was not trained on, and report results on a third set of
    rows.

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
        As for `evaluate`; also if no temperature minimises the loss. It may keep falling as T tends
        to 0, because each target has the largest logit of its row, or as T grows, because the
        logits favour other classes. Or it is infinite or NaN, or does not depend on T.

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
    """Fit a temperature, given a function that evaluates one."""
    before = now = evaluate_at(1.0)
    has_minimum(before)
    temperature, last, scale = 1.0, math.inf, 0.0
    for reads in range(1, MOST_STEPS + 1):
        # With b = 1/T: the derivative of the loss with respect to log b, and b² times the second
        # derivative with respect to b.
        entropy = -now.entropy_sum[0], -now.entropy_sum[1]
        slope = sum(added(now.loss_sum, entropy)) / now.rows
        curvature = sum(now.variance_sum) / now.rows
        if curvature > FLAT:
            step = newton_step(slope, curvature)
            # Near the minimum, rounding may leave steps that no longer become shorter.
            if abs(step) <= TOLERANCE or (last < 1e-6 and abs(step) >= last / 2):
                return Temperature(temperature, before, now, reads)
            scale = 0.0
        else:
            step, scale = flat_step(slope, curvature, temperature, scale)
        last = abs(step)
        if not SMALLEST < temperature * math.exp(step) < LARGEST:
            break
        temperature *= math.exp(step)
        now = evaluate_at(temperature)
    checks.no_temperature("it keeps falling as the temperature " + limit(step))


def newton_step(slope: float, curvature: float) -> float:
    """Return the step of log T for a loss that is convex in b."""
    if slope <= 0:
        # If b is too small, a step of b does not overshoot: the slope grows less and less.
        return -math.log1p(-slope / curvature)
    # If it is too large, a step of log b is short enough to keep b > 0. A slope above e comes from
    # rows that are certainly wrong, and is almost proportional to b.
    return max(slope / (curvature + slope), math.log(slope))


def flat_step(
    slope: float, curvature: float, temperature: float, scale: float
) -> tuple[float, float]:
    """Return the step of log T if probabilities hardly change, and how far the logits are apart.

    Either the probabilities are close to 0 and 1 (or to ties), or to those of equal logits. In the
    second case, T times the standard deviation of the logits over T is that of the logits, the
    scale. If the previous T gave about the same scale, the slope has its limiting form.
    """
    own = math.sqrt(curvature) * temperature  # the variance might overflow
    if slope > NOISE:
        if own > 0 and 0.7 < scale / own < 1.4:
            checks.no_temperature("it keeps falling as the temperature " + limit(1.0))
        return math.log(max(slope, FAR)), own
    if curvature == 0 and temperature == 1:
        checks.no_temperature(
            "probabilities do not change with it, because the logits of each row are equal, or too"
            " far apart"
        )
    if curvature == 0 or (slope < -NOISE and -slope <= curvature):
        checks.no_temperature("it keeps falling as the temperature " + limit(-1.0))
    if slope < -NOISE:
        return newton_step(slope, curvature), own
    return 0.5 * math.log(curvature), own  # to a T at which the slope can be seen


def limit(step: float) -> str:
    if step > 0:
        return "grows, because the logits favour classes other than the targets"
    return "tends to 0"


def has_minimum(before: Evaluation) -> None:
    """Reject losses for which Newton's method would not converge."""
    if before.rows == 0:
        checks.no_temperature("there are no rows, or all are ignored")
    if before.invalid:
        checks.no_temperature(f"{before.invalid} rows have no softmax")
    if math.isinf(before.loss):
        checks.no_temperature(
            "it is infinite, because a target has the logit -inf, or one too far below the others"
        )
    if before.rank_rows[0] == before.rows:
        checks.no_temperature(
            "it keeps falling as the temperature tends to 0, because every target has the largest"
            " logit of its row"
        )
