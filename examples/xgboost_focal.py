"""Find a rare class with focal loss in XGBoost, and see a hand-written objective fail at it.

The data are scikit-learn's handwritten digits: is it an 8? Of each random half that trains, only
every tenth 8 is kept, so that 1 sample in 100 is positive; the other half is left as it is. All
models start at the log-odds of their training data, as XGBoost itself does, and have the same
settings.

Run: pip install "fastce[boosting]" scikit-learn; python xgboost_focal.py
"""

import numpy as np
import xgboost
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score

import fastce
from fastce.objectives import XGBoostObjective

SETTINGS = {"max_depth": 3, "learning_rate": 0.1, "min_child_weight": 0, "nthread": 1}
SPLITS, ROUNDS, GAMMA = 5, 100, 2.0


def hand_written(scores, data):
    """Gradient and Hessian of focal loss, as the formulas stand."""
    y = data.get_label()
    p = 1 / (1 + np.exp(-scores))
    p_t, sign = np.where(y == 1, p, 1 - p), np.where(y == 1, -1, 1)
    q = 1 - p_t
    grad = sign * q**GAMMA * (q - GAMMA * p_t * np.log(p_t))
    bracket = q * (1 + 2 * GAMMA + GAMMA * np.log(p_t)) - GAMMA**2 * p_t * np.log(p_t)
    return grad, p_t * q**GAMMA * bracket


def split(pixels, is_eight, seed):
    order = np.random.default_rng(seed).permutation(len(pixels))
    train, test = np.array_split(order, 2)
    eights = train[is_eight[train]]
    train = np.concatenate([train[~is_eight[train]], eights[::10]])
    return pixels[train], is_eight[train], pixels[test], is_eight[test]


def average_precision(objective, x_train, y_train, x_test, y_test):
    start = XGBoostObjective(fastce.BCEWithLogits()).initial_score(y_train)
    train = xgboost.DMatrix(x_train, y_train, base_margin=np.full(len(x_train), start))
    test = xgboost.DMatrix(x_test, base_margin=np.full(len(x_test), start))
    settings = SETTINGS | ({"objective": objective} if isinstance(objective, str) else {})
    custom = None if isinstance(objective, str) else objective
    booster = xgboost.train(settings, train, ROUNDS, obj=custom)
    return average_precision_score(y_test, booster.predict(test, output_margin=True))


pixels, digit = load_digits(return_X_y=True)
objectives = {
    "binary:logistic, built in": "binary:logistic",
    "focal loss, hand-written": hand_written,
    "focal loss, fastce": XGBoostObjective(fastce.SigmoidFocalLoss(gamma=GAMMA, alpha=None)),
}
splits = [split(pixels, digit == 8, seed) for seed in range(SPLITS)]
print(f"positive in training: {np.mean([y.mean() for _, y, _, _ in splits]):.1%}")
print(f"average precision on new digits, mean and range of {SPLITS} splits:")
for name, objective in objectives.items():
    found = [average_precision(objective, *parts) for parts in splits]
    print(f"  {name:25}  {np.mean(found):.3f}  ({min(found):.3f} to {max(found):.3f})")
