"""Boost trees with focal loss on a Dask cluster, and compare the model with that of one machine.

In a checkout: pip install ".[boosting]" "dask[array,dataframe,distributed]";
python examples/boosting_on_dask.py [xgboost | lightgbm]

The data are synthetic: 6 features with 12 integer values each, 5 classes. Each feature has few
values, and every worker has all of them, so the bins of the trees are the same on any number of
workers. With more values, the bins and the models are only close.
"""

import sys

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

import fastce
from fastce.objectives import LightGBMObjective, XGBoostObjective

ROWS, CLASSES, ROUNDS = 20_000, 5, 30
LOSS = fastce.SoftmaxFocalLoss(gamma=2.0)


def samples():
    rng = np.random.default_rng(0)
    x = rng.integers(12, size=(ROWS, 6)).astype(np.float32)
    scores = x @ rng.normal(size=(6, CLASSES)) + 3 * rng.gumbel(size=(ROWS, CLASSES))
    return x, scores.argmax(axis=1)


def with_xgboost(client, x, y, chunked_x, chunked_y):
    """Return the raw scores of two models: one trained on the cluster, one here."""
    import xgboost
    import xgboost.dask

    focal = XGBoostObjective(LOSS)
    settings = {"num_class": CLASSES, "max_depth": 4, "nthread": 1}
    data = xgboost.dask.DaskDMatrix(client, chunked_x, chunked_y)
    result = xgboost.dask.train(client, settings, data, ROUNDS, obj=focal)
    whole = xgboost.DMatrix(x, y)
    alone = xgboost.train(settings, whole, ROUNDS, obj=focal)
    return [model.predict(whole, output_margin=True) for model in (result["booster"], alone)]


def with_lightgbm(client, x, y, chunked_x, chunked_y):
    """Likewise. LightGBM's workers only estimate the samples in a leaf: set no minimum."""
    import lightgbm

    focal = LightGBMObjective(LOSS)
    settings = {"num_class": CLASSES, "n_estimators": ROUNDS, "verbose": -1, "metric": "None"}
    settings |= {"min_child_samples": 0, "min_child_weight": 1.0}
    model = lightgbm.DaskLGBMClassifier(client=client, objective=focal.sklearn, **settings)
    model.fit(chunked_x, chunked_y)
    alone = lightgbm.LGBMClassifier(objective=focal.sklearn, n_jobs=1, **settings).fit(x, y)
    return [model.predict(x, raw_score=True) for model in (model.to_local(), alone)]


def main(host="xgboost"):
    x, y = samples()
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        chunked = da.from_array(x, (ROWS // 8, 6)), da.from_array(y, ROWS // 8)
        train = {"xgboost": with_xgboost, "lightgbm": with_lightgbm}[host]
        distributed, alone = train(client, x, y, *chunked)
    print(f"{host} on 2 workers: accuracy {(distributed.argmax(axis=1) == y).mean():.3f}")
    print(f"on one machine:       accuracy {(alone.argmax(axis=1) == y).mean():.3f}")
    print(f"largest difference of raw scores: {abs(distributed - alone).max():.1e}")


if __name__ == "__main__":  # the workers import this file
    main(*sys.argv[1:])
