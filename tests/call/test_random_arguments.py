"""Random arguments and options: each call ends in a result or in a clear error.

The search is the same in every run; `tools/fuzz.py` goes on from there for a given time.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from cases import FUNCTIONS
from fuzzing import FUZZ
from hypothesis import given
from hypothesis import strategies as st

import fastce
from fastce import evaluation, information

NUMBERS = st.one_of(st.integers(-3, 9), st.floats(), st.lists(st.floats(), max_size=3))
DTYPE_CODES = ["?", "i1", "u8", "i8", "f2", "f4", "f8", "g", "c8", "O", "M8[s]", "U2", ">f4", "V3"]
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=3),
    st.lists(NUMBERS, max_size=4),
    st.builds(np.zeros, st.lists(st.integers(0, 4), max_size=4), st.sampled_from(DTYPE_CODES)),
)
NAMES = ["sample_weight", "where", "normalizer", "grad_output", "out"]


@FUZZ
@given(
    loss=st.sampled_from(sorted(FUNCTIONS)),
    logits=ANYTHING,
    target=ANYTHING,
    call=st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=2),
    good_logits=st.booleans(),
    good_target=st.booleans(),
)
def test_any_argument_ends_in_a_result_or_a_clear_error(
    loss, logits, target, call, good_logits, good_target
):
    if good_logits:
        logits = np.zeros((3, 4), np.float32)
    if good_target:
        target = [0, 1, 2] if "Softmax" in loss else np.zeros((3, 4))
    made = getattr(fastce, loss)(reduction="none")
    try:
        value, grad, hess = made.value_grad_hess(logits, target, **call)
    except (IndexError, TypeError, ValueError) as error:
        assert str(error)
        return
    assert grad.shape == hess.shape == np.shape(logits)
    assert np.shape(value) == (np.shape(logits)[:-1] if "Softmax" in loss else np.shape(logits))


@FUZZ
@given(data=st.data())
def test_any_option_ends_in_a_loss_or_a_clear_error(data):
    loss = data.draw(st.sampled_from(sorted(FUNCTIONS)))
    names = st.sampled_from([field.name for field in dataclasses.fields(getattr(fastce, loss))])
    options = data.draw(st.dictionaries(names, ANYTHING, min_size=1, max_size=3))
    try:
        made = getattr(fastce, loss)(**options)
    except (TypeError, ValueError) as error:
        assert str(error)
        return
    again = getattr(fastce, loss)(**options)
    assert made == again
    assert hash(made) == hash(again)
    assert loss in repr(made)


# Valid arguments of other functions, some of which are replaced. A number of bins is not: it could
# fill the memory.
FITTING = {
    fastce.linear_cross_entropy: {
        "hidden": np.ones((3, 2)),
        "weight": np.ones((4, 2)),
        "target": [0, 1, 3],
        "bias": np.ones(4),
        "loss": fastce.SoftmaxFocalLoss(),
        "sample_weight": [1.0, 0.0, 2.0],
        "normalizer": 2.0,
    },
    fastce.softmax: {"logits": np.zeros((3, 4)), "axis": 1, "where": np.ones(4, bool), "out": None},
    fastce.logsumexp: {"logits": np.zeros((3, 4)), "axis": 0, "where": np.ones(4, bool)},
    fastce.token_log_probs: {"logits": np.zeros((3, 4)), "target": [0, 1, 3]},
    information.entropy: {"p": np.full((3, 4), 0.25), "axis": 1},
    information.cross_entropy: {"p": np.full((3, 4), 0.25), "q": np.full(4, 0.25), "axis": -1},
    information.kl_divergence: {"p": np.full((3, 4), 0.25), "q": np.full(4, 0.25), "axis": -1},
    information.binary_cross_entropy: {"y": [0, 1, 1], "p": np.full((2, 3), 0.5)},
    information.negative_log_likelihood: {
        "log_probs": np.full((3, 4), np.log(0.25)),
        "target": [0, 1, 3],
        "axis": 1,
    },
    evaluation.evaluate: {
        "logits": np.zeros((3, 4)),
        "target": [0, 1, 3],
        "axis": 1,
        "ignore_index": -1,
        "temperature": 2.0,
    },
    evaluation.fit_temperature: {"logits": np.eye(3), "target": [0, 1, 1]},
}


@FUZZ
@given(function=st.sampled_from(list(FITTING)), data=st.data())
def test_any_argument_of_a_function_ends_in_a_result_or_a_clear_error(function, data):
    fitting = FITTING[function]
    names = st.sampled_from(list(fitting))
    others = data.draw(st.dictionaries(names, ANYTHING, min_size=1, max_size=2))
    try:
        function(**{**fitting, **others})
    except (IndexError, TypeError, ValueError) as error:
        assert str(error)


@pytest.mark.parametrize("function", FITTING, ids=lambda function: function.__name__)
def test_the_fitting_arguments_fit(function):
    assert function(**FITTING[function]) is not None
