"""Find people in poor health with XGBoost: its own objective, focal loss, and a published mistake.

The data come with statsmodels: the RAND health insurance experiment, 20,190 rows, one per person
and year. Poor health is rare: 1.5 % of the rows, about 90 people. Rows do not identify the person,
but all columns except the visits to a doctor seem to stay the same over the years. Rows that are
equal in these columns go to the same side of a split, so that no person is on both sides.

Half of the data is the test set. The other half chooses the settings and the number of rounds, by
the average precision on a third of it after training on the rest. Then the model is trained on all
of that half.

Focal loss does not rank better here than XGBoost's own objective.

In a checkout: pip install ".[boosting]" scikit-learn statsmodels; python examples/xgboost_focal.py
"""

import numpy as np
import xgboost
from sklearn.metrics import average_precision_score
from statsmodels.datasets import randhie

import fastce
from fastce.objectives import XGBoostObjective

SETTINGS = {"max_depth": 3, "learning_rate": 0.1, "min_child_weight": 0, "nthread": 1}
SPLITS, ROUNDS = 10, (10, 20, 40, 80)
BUILT_IN, MISTAKE = "binary:logistic, built in", "focal, published Hessian, γ=2"
CHOSEN, SAME = "focal, fastce, γ and α chosen", "focal, fastce, γ=2"


def published(scores, data):
    """The focal loss of bokbokbok 1.0.5, γ=2: its Hessian has 1−y for 1−p, and is 0 where y=1."""
    y, p = data.get_label(), np.clip(1 / (1 + np.exp(-scores)), 1e-6, 1 - 1e-6)
    log_p, log_q = np.log(p), np.log1p(-p)
    grad = y * (1 - p) ** 2 * (2 * p * log_p + p - 1) + (1 - y) * p**2 * (p - 2 * (1 - p) * log_q)
    positive = y * p * (1 - y) ** 2 * ((1 - p) * (2 * log_p + 5) - 4 * p * log_p)
    negative = (1 - y) * p**3 * (1 - p) * (2 * log_q + 5)
    return grad, positive + negative


def focal(gamma, alpha=None):
    return XGBoostObjective(fastce.SigmoidFocalLoss(gamma=gamma, alpha=alpha))


CANDIDATES = {
    BUILT_IN: [{"objective": "binary:logistic", "scale_pos_weight": w} for w in (1, 3, 10)],
    CHOSEN: [focal(gamma, alpha) for gamma in (1.0, 2.0, 4.0) for alpha in (0.25, 0.5, 0.75)],
    SAME: [focal(2.0)],
    MISTAKE: [published],
}


def load():
    rows = randhie.load_pandas().data
    poor = rows["hlthp"].to_numpy()
    rows = rows.drop(columns=["hlthp", "hlthf", "hlthg"])  # poor, fair, good: one answer
    columns = [name for name in rows if name != "mdvis"]
    person = rows.groupby(columns, sort=False).ngroup().to_numpy()  # or several, if they are equal
    return rows.to_numpy(float), poor, person


def average_precisions(candidate, train, test, start):
    """Return the average precision on `test` after each number of rounds in ROUNDS."""
    settings, objective = (candidate, None) if isinstance(candidate, dict) else ({}, candidate)
    x_train, y_train = train
    data = xgboost.DMatrix(x_train, y_train, base_margin=np.full(len(y_train), start))
    booster = xgboost.train(SETTINGS | settings, data, max(ROUNDS), obj=objective)
    data = xgboost.DMatrix(test[0], base_margin=np.full(len(test[1]), start))
    scores = (booster.predict(data, output_margin=True, iteration_range=(0, k)) for k in ROUNDS)
    return [average_precision_score(test[1], score) for score in scores]


def on_a_split(features, poor, person, seed):
    sixth = np.random.default_rng(seed).integers(6, size=person.max() + 1)[person]
    fit, validation, both, test = (
        (features[part], poor[part]) for part in (sixth < 2, sixth == 2, sixth < 3, sixth >= 3)
    )
    start = XGBoostObjective(fastce.BCEWithLogits()).initial_score(both[1])  # the log-odds
    found = {}
    for name, candidates in CANDIDATES.items():
        grid = [average_precisions(candidate, fit, validation, start) for candidate in candidates]
        best, rounds = np.unravel_index(np.argmax(grid), np.shape(grid))
        found[name] = average_precisions(candidates[best], both, test, start)[rounds]
    return found


features, poor, person = load()
splits = [on_a_split(features, poor, person, seed) for seed in range(SPLITS)]
print(f"in poor health: {poor.mean():.2%} of {len(poor)} rows; a guess has that precision")
print(f"average precision in test halves, mean and standard deviation of {SPLITS} splits:")
for name in CANDIDATES:
    found = [split[name] for split in splits]
    print(f"  {name:30} {np.mean(found):.3f} ± {np.std(found, ddof=1):.3f}")
gain = [split[CHOSEN] - split[BUILT_IN] for split in splits]
print(f"chosen less built in: {np.mean(gain):.3f} ± {np.std(gain, ddof=1):.3f},", end=" ")
print(f"ahead in {sum(g > 0 for g in gain)} splits")
