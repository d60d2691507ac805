"""Train LightGBM on a cluster of its own: python lightgbm_on_dask.py JOB RESULT, both files."""

import pickle
import sys

import dask.array as da
import lightgbm
import numpy as np
from distributed import Client, LocalCluster


def main(job_path, result_path):
    with open(job_path, "rb") as file:
        objective, settings, arrays, chunk_rows = pickle.load(file)
    x, y, weight = (
        None if a is None else da.from_array(a, (chunk_rows, *a.shape[1:])) for a in arrays
    )
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        model = lightgbm.DaskLGBMClassifier(client=client, objective=objective, **settings)
        model.fit(x, y, sample_weight=weight)
    assert model.booster_.params["num_machines"] == 2
    np.save(result_path, model.to_local().predict(arrays[0], raw_score=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
