"""Perplexity, accuracy, ranks and calibration of a classifier, in one pass over its logits.

::

    from fastce.evaluation import evaluate
    result = evaluate(logits, target)      # any array, memory-mapped too
    print(result)                          # a table
    total = result_a + result_b            # of chunks, processes, files: in any order

``python -m fastce evaluate logits.npy labels.npy`` does the same for files.
"""

from fastce.evaluation._evaluate import evaluate
from fastce.evaluation._evaluation import Evaluation
from fastce.evaluation._temperature import Temperature, fit_temperature

__all__ = ["Evaluation", "Temperature", "evaluate", "fit_temperature"]
