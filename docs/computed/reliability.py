from digits_network import parts, train
from matplotlib import pyplot as plt

from fastce.evaluation import evaluate, fit_temperature
from fastce.plots import evaluation_curves


def draw():
    (x, y), (x_fit, y_fit), (x_test, y_test) = parts()
    network = train(x, y)
    temperature = fit_temperature(network(x_fit), y_fit)
    smoothed = train(x, y, label_smoothing=0.1)
    figure, axes = plt.subplots(1, 3, figsize=(9.5, 3.5))
    evaluation_curves(
        {
            "before": evaluate(network(x_test), y_test, bins=10, max_rank=10),
            "after": evaluate(
                network(x_test), y_test, bins=10, max_rank=10, temperature=temperature
            ),
            "smoothed": evaluate(smoothed(x_test), y_test, bins=10, max_rank=10),
        },
        axes=axes,
    )
    return figure
