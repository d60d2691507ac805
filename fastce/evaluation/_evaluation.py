"""The evaluation of a classifier on some rows: sums that can be merged."""

from __future__ import annotations

import json
import math
import operator
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from fastce._call import checks_evaluation as checks

Sum = tuple[float, float]  # a sum and its rounding error
Counts = tuple[int, ...]


def added(a: Sum, b: Sum) -> Sum:
    """Add two sums that carry their rounding errors (Knuth's two-sum)."""
    total = a[0] + b[0]
    if not math.isfinite(total):
        return total, 0.0
    rounded = total - a[0]
    lost = (a[0] - (total - rounded)) + (b[0] - rounded) + (a[1] + b[1])
    high = total + lost
    return high, lost - (high - total)


def mean(total: float, count: int) -> float:
    return total / count if count else math.nan


def readable(number: float) -> str:
    return f"{number:,.1f}" if number >= 100 else f"{number:.4g}"


@dataclass(frozen=True)
class Evaluation:
    """Sums, counts, bins and ranks over rows of a classifier's logits, which ``+`` merges.

    This is the result of `evaluate`. The evaluations of different rows can be added, and give the
    evaluation of all rows. The counts are exact, and the sums keep track of their rounding errors.
    So the evaluations of chunks, files and processes may be merged in any order, and
    ``sum(results)`` works. An evaluation is immutable, compares by value, can be
    pickled, and converts to JSON. Losses and entropies are in nats.

    Each figure is a mean over the rows that count. With p the probabilities of a row and y its
    target:

    =====================  ====================================================================
    `loss`                 −log p_y
    `perplexity`           exp(loss)
    `accuracy`             whether y is the first class with the largest logit
    ``top_k(k)``           whether fewer than k classes come before y (see there)
    `entropy`              −Σ_j p_j log p_j, the loss that the classifier expects
    `brier`                Σ_j (p_j − δ_jy)², between 0 and 2
    `calibration_error`    Σ_b n_b/n ``|accuracy − confidence|`` over bins of max_j p_j
    =====================  ====================================================================

    A row without a softmax (with NaN or +∞, or only −∞) counts as wrong, and makes everything NaN
    except `accuracy` and `top_k`; `invalid` counts such rows. A target of probability 0 makes
    `loss` infinite.

    Attributes
    ----------
    rows : int
        The number of rows that count.
    ignored : int
        The number of rows that do not count, because their label is `ignore_index`.
    invalid : int
        How many of the `rows` have no softmax.
    correct : int
        The number of rows in which the target is the first class with the largest logit.
    loss_sum, entropy_sum, brier_sum, variance_sum : tuple of two floats
        Sums over the rows, each with its rounding error. The variance is that of the logits under
        p.
    bin_rows, bin_correct : tuple of ints
        For each bin [b/bins, (b+1)/bins), the number of rows with their largest probability in it,
        and the number of those that are correct. A probability of 1 is in the last bin.
    bin_confidence : tuple of tuples of two floats
        The sum of these probabilities.
    rank_rows : tuple of ints
        The numbers of rows with 0, 1, ... classes before the target; the last number counts all
        others.

    References
    ----------
    G. W. Brier, "Verification of Forecasts Expressed in Terms of Probability", Monthly Weather
    Review 78(1), 1950; M. P. Naeini, G. F. Cooper, M. Hauskrecht, "Obtaining Well Calibrated
    Probabilities Using Bayesian Binning", AAAI 2015 (calibration errors).

    Examples
    --------
    >>> import numpy as np
    >>> from fastce.evaluation import evaluate
    >>> logits = np.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 3.0]])
    >>> result = evaluate(logits, [0, 1, 1])
    >>> print(round(result.loss, 6), round(result.perplexity, 6), round(result.top_k(2), 6))
    0.986945 2.683026 1.0
    >>> parts = evaluate(logits[:1], [0]) + evaluate(logits[1:], [1, 1])
    >>> parts.rank_rows == result.rank_rows
    True
    >>> print(result)
    rows                      3
    loss                      0.98695 nats
    perplexity                2.683
    accuracy                  66.67 %
    top-5 accuracy            100.00 %
    entropy                   0.72172 nats
    Brier score               0.61199
    calibration error         0.49356 (largest of 15 bins: 0.84379)
    """

    rows: int
    ignored: int
    invalid: int
    correct: int
    loss_sum: Sum
    entropy_sum: Sum
    brier_sum: Sum
    variance_sum: Sum
    bin_rows: Counts
    bin_correct: Counts
    bin_confidence: tuple[Sum, ...]
    rank_rows: Counts

    # Figures --------------------------------------------------------------------------------------

    @property
    def loss(self) -> float:
        """The mean of −log p_y (cross-entropy or negative log-likelihood), in nats."""
        return self._mean(self.loss_sum)

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        with np.errstate(over="ignore"):
            return float(np.exp(self.loss))

    @property
    def accuracy(self) -> float:
        """The share of rows in which the target is the first class with the largest logit."""
        return mean(self.correct, self.rows)

    @property
    def entropy(self) -> float:
        """The mean entropy of p, in nats, which is the loss that the classifier expects."""
        return self._mean(self.entropy_sum)

    @property
    def brier(self) -> float:
        """The mean of Σ_j (p_j − δ_jy)², between 0 and 2 as in Brier's paper of 1950."""
        return self._mean(self.brier_sum)

    @property
    def calibration_error(self) -> float:
        """Σ_b n_b/n ``|accuracy − confidence|``, the expected calibration error (ECE)."""
        gaps = self._gaps()
        return mean(
            math.fsum(n * gap for n, gap in zip(self.bin_rows, gaps, strict=True)), self.rows
        )

    @property
    def max_calibration_error(self) -> float:
        """The largest ``|accuracy − confidence|`` of a bin, the maximum calibration error (MCE)."""
        gaps = self._gaps()
        return max(gaps) if self.rows and not self.invalid else math.nan

    @property
    def bins(self) -> int:
        """The number of bins of the largest probability."""
        return len(self.bin_rows)

    @property
    def max_rank(self) -> int:
        """The largest rank that is counted separately, and the largest k of `top_k`."""
        return len(self.rank_rows) - 1

    def top_k(self, k: int) -> float:
        """Return the share of rows in which fewer than k classes come before the target.

        The classes with a larger logit come before it, and those with the same logit and a higher
        index. So ties count as in scikit-learn's ``top_k_accuracy_score``. `accuracy` takes the
        first of several largest logits instead. It is therefore larger than ``top_k(1)`` if a
        target ties with a later class.

        Parameters
        ----------
        k : int
            From 1 to `max_rank`; or more, if no target has so many classes before it.

        Returns
        -------
        float

        Raises
        ------
        TypeError, ValueError
            k is not an integer, or is out of range.
        """
        k = checks.top_k(k, self.max_rank, self.rank_rows[-1])
        return mean(sum(self.rank_rows[: min(k, self.max_rank)]), self.rows)

    def reliability(self) -> tuple[Any, Any, Any]:
        """Return the mean confidence, the accuracy and the number of rows of each bin, as arrays.

        Confidence and accuracy of an empty bin are NaN.
        """
        n = np.array(self.bin_rows)
        with np.errstate(invalid="ignore"):
            confidence = np.array([high + low for high, low in self.bin_confidence]) / n
            return confidence, np.array(self.bin_correct) / n, n

    def plot(self) -> Any:
        """Draw the reliability diagram, the histogram of confidence, and the rank curve.

        Returns
        -------
        matplotlib figure
            With three axes; `fastce.plots.evaluation_curves` draws several evaluations in one.

        Raises
        ------
        ImportError
            If matplotlib is not installed; the message says how to install it.
        """
        from fastce.plots import evaluation_curves

        return evaluation_curves(self)[0].get_figure()

    def __str__(self) -> str:
        ignored = f" ({self.ignored:,} ignored)" if self.ignored else ""
        lines = {"rows": f"{self.rows:,}{ignored}"}
        if self.invalid:
            lines["without a softmax"] = f"{self.invalid:,}"
        lines |= self.figures()
        return "\n".join(f"{name:<26}{value}" for name, value in lines.items())

    def figures(self) -> dict[str, str]:
        """Return the lines of the table: names and values as text."""
        k = min(5, self.max_rank)
        return {
            "loss": f"{self.loss:.5f} nats",
            "perplexity": readable(self.perplexity),
            "accuracy": f"{self.accuracy:.2%}".replace("%", " %"),
            f"top-{k} accuracy": f"{self.top_k(k):.2%}".replace("%", " %"),
            "entropy": f"{self.entropy:.5f} nats",
            "Brier score": f"{self.brier:.5f}",
            "calibration error": f"{self.calibration_error:.5f}"
            f" (largest of {self.bins} bins: {self.max_calibration_error:.5f})",
        }

    def _mean(self, total: Sum) -> float:
        return math.nan if self.invalid else mean(total[0] + total[1], self.rows)

    def _gaps(self) -> list[float]:
        if self.invalid:
            return [math.nan] * self.bins
        return [
            abs(correct / n - (high + low) / n) if n else 0.0
            for n, correct, (high, low) in zip(
                self.bin_rows, self.bin_correct, self.bin_confidence, strict=True
            )
        ]

    # Merging and storing --------------------------------------------------------------------------

    def __add__(self, other: object) -> Evaluation:
        if not isinstance(other, Evaluation):
            return NotImplemented
        checks.mergeable((self.bins, self.max_rank), (other.bins, other.max_rank))
        merged: dict[str, Any] = {}
        for field in fields(self):
            a, b = getattr(self, field.name), getattr(other, field.name)
            if field.name.endswith("_sum"):
                merged[field.name] = added(a, b)
            elif field.name == "bin_confidence":
                merged[field.name] = tuple(map(added, a, b))
            elif isinstance(a, tuple):
                merged[field.name] = tuple(m + n for m, n in zip(a, b, strict=True))
            else:
                merged[field.name] = a + b
        return Evaluation(**merged)

    def __radd__(self, other: object) -> Evaluation:
        # sum() begins with 0
        return self if type(other) is int and other == 0 else NotImplemented

    def to_json(self) -> str:
        """Return JSON with the figures, and under "state" everything that `from_json` needs.

        A number that is not finite is null; in the state it is a string.
        """
        said = {
            name: getattr(self, name)
            for name in (
                *("rows", "ignored", "invalid", "loss", "perplexity", "accuracy", "entropy"),
                *("brier", "calibration_error", "max_calibration_error", "bins", "max_rank"),
            )
        }
        said |= {f"top_{k}": self.top_k(k) for k in (1, 5, 10) if k <= self.max_rank}
        said = {name: value if math.isfinite(value) else None for name, value in said.items()}
        return json.dumps(said | {"state": _written(asdict(self))}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Evaluation:
        """Return the evaluation that `to_json` wrote.

        Raises
        ------
        ValueError
            The text was not written by `to_json`.
        """
        try:
            state = json.loads(text)["state"]
            found = cls(**{field.name: _read(state[field.name]) for field in fields(cls)})
            found._check()
        except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
            checks.not_written(error)
        return found

    def _check(self) -> None:
        """Raise an error, for `from_json`, if no rows could have this evaluation."""
        sums = [getattr(self, f.name) for f in fields(self) if f.name.endswith("_sum")]
        for high, low in (*sums, *self.bin_confidence):
            math.isfinite(high + low)
        counts = [self.rows, self.ignored, self.invalid, self.correct]
        counts += [*self.bin_rows, *self.bin_correct, *self.rank_rows]
        if not all(type(count) is int and 0 <= count < 2**63 for count in counts):
            raise ValueError("counts must be nonnegative 64-bit integers")
        totals = {
            "rank_rows": self.rows,
            "bin_rows": self.rows - self.invalid,
            "bin_correct": self.correct,
        }
        for name, total in totals.items():
            if sum(getattr(self, name)) != total:
                raise ValueError(f"{name} must add up to {total}, got {sum(getattr(self, name))}")
        if not 1 <= len(self.bin_rows) == len(self.bin_correct) == len(self.bin_confidence):
            raise ValueError("bin_rows, bin_correct and bin_confidence must have the same length")
        if any(map(operator.gt, map(any, self.bin_confidence), self.bin_rows)):
            raise ValueError("bin_confidence of a bin without rows must be 0")
        if any(map(operator.gt, self.bin_correct, self.bin_rows)):
            raise ValueError("bin_correct must not be greater than bin_rows")
        if len(self.rank_rows) < 2:
            raise ValueError("rank_rows must count at least the first rank and all others")


def _written(value: Any) -> Any:
    """Return a value that JSON can represent: it has neither NaN nor infinity."""
    if isinstance(value, dict):
        return {name: _written(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return [_written(item) for item in value]
    return value if math.isfinite(value) else str(value)


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_read(item) for item in value)
    return float(value) if isinstance(value, str) else value
