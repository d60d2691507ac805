"""The public interface: losses as values, their functions, and what calls return."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle

import numpy as np
import pytest
from cases import CASES, FUNCTIONS, LOSSES, THOROUGH, small_batch

import fastce

SAMPLES = [
    ("SoftmaxCrossEntropy", {}),
    ("SoftmaxCrossEntropy", {"label_smoothing": 0.1, "reduction": "none", "axis": 1}),
    ("SoftmaxCrossEntropy", {"weight": [0.5, 1.0, 2.0], "z_loss": 1e-4, "softcap": 30.0}),
    ("SoftmaxFocalLoss", {}),
    ("SoftmaxFocalLoss", {"gamma": 0.3, "alpha": [0.25, 1.0, 0.125], "ignore_index": 0}),
    ("SoftmaxKLDivergence", {}),
    ("SoftmaxKLDivergence", {"temperature": 2.0, "reduction": "sum"}),
    ("BCEWithLogits", {}),
    ("BCEWithLogits", {"pos_weight": 2.5, "label_smoothing": 0.25}),
    ("BCEWithLogits", {"pos_weight": [[0.1], [3.0]], "reduction": "sum"}),
    ("SigmoidFocalLoss", {}),
    ("SigmoidFocalLoss", {"gamma": 1.5, "alpha": None}),
]


# Losses as values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), SAMPLES)
def test_a_loss_prints_as_the_call_that_makes_it(name, options):
    loss = getattr(fastce, name)(**options)
    namespace = {**vars(fastce), "fastce": fastce, "array": np.array, "float64": np.float64}
    assert eval(repr(loss), namespace) == loss


def test_the_plainest_repr():
    assert repr(fastce.SoftmaxCrossEntropy()) == "SoftmaxCrossEntropy()"
    assert repr(fastce.SoftmaxCrossEntropy(label_smoothing=0.1)) == (
        "SoftmaxCrossEntropy(label_smoothing=0.1)"
    )


@pytest.mark.parametrize(("name", "options"), SAMPLES)
def test_losses_compare_and_hash_by_value(name, options):
    cls = getattr(fastce, name)
    loss, same = cls(**options), cls(**copy.deepcopy(options))
    assert loss == same
    assert hash(loss) == hash(same)
    assert len({loss, same}) == 1
    assert loss != "a loss"
    others = [getattr(fastce, n)(**o) for n, o in SAMPLES if (n, o) != (name, options)]
    assert loss not in others


def test_array_options_enter_comparison():
    first = fastce.SoftmaxCrossEntropy(weight=[1.0, 2.0])
    assert first == fastce.SoftmaxCrossEntropy(weight=np.array([1.0, 2.0]))
    assert first != fastce.SoftmaxCrossEntropy(weight=[1.0, 3.0])
    assert first != fastce.SoftmaxCrossEntropy(weight=[1.0, 2.0, 2.0])
    assert first != fastce.SoftmaxCrossEntropy()


@pytest.mark.parametrize(("name", "options"), SAMPLES)
def test_losses_pickle_and_copy(name, options):
    loss = getattr(fastce, name)(**options)
    for other in (
        *[pickle.loads(pickle.dumps(loss, p)) for p in range(2, pickle.HIGHEST_PROTOCOL + 1)],
        copy.copy(loss),
        copy.deepcopy(loss),
    ):
        assert other == loss
        assert type(other) is type(loss)
        assert repr(other) == repr(loss)


@pytest.mark.parametrize(("name", "options"), SAMPLES)
def test_losses_are_frozen(name, options):
    loss = getattr(fastce, name)(**options)
    with pytest.raises(AttributeError):
        loss.reduction = "sum"
    with pytest.raises(AttributeError):
        del loss.reduction
    with pytest.raises(AttributeError):
        loss.no_such_attribute = 1


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("SoftmaxCrossEntropy", "weight"),
        ("SoftmaxFocalLoss", "alpha"),
        ("BCEWithLogits", "pos_weight"),
    ],
)
def test_array_options_are_read_only_copies(name, option):
    given = np.array([0.5, 1.0, 2.0])
    loss = getattr(fastce, name)(**{option: given})
    given[0] = 100
    kept = getattr(loss, option)
    np.testing.assert_array_equal(kept, [0.5, 1.0, 2.0])
    with pytest.raises(ValueError, match="read-only"):
        kept[0] = 1


@pytest.mark.parametrize(("name", "options"), SAMPLES)
def test_options_can_be_read(name, options):
    loss = getattr(fastce, name)(**options)
    defaults = {field.name: field.default for field in dataclasses.fields(loss)}
    assert options.keys() < defaults.keys()
    for option, default in defaults.items():
        np.testing.assert_array_equal(getattr(loss, option), options.get(option, default))


def test_the_kernels_take_no_option_that_they_do_not_know():
    from fastce._call import variants

    with pytest.raises(TypeError, match="unknown options of focal: gama"):
        variants.core.SoftmaxKernel("focal", gama=2.0)


# One-shot functions -------------------------------------------------------------------------------


@pytest.mark.parametrize("c", CASES, ids=str)
def test_functions_equal_the_losses(c):
    batch = c.batch("float32")
    function = getattr(fastce, FUNCTIONS[c.loss])
    result = function(batch.logits, batch.target, **c.options, **batch.call)
    expected = c.build().value_and_grad(batch.logits, batch.target, **batch.call)
    assert len(result) == 2
    np.testing.assert_array_equal(result[0], expected[0])
    np.testing.assert_array_equal(result[1], expected[1])


class Mutable:
    """Like a tensor: an array that is hashed by identity, so that a change keeps the hash."""

    def __init__(self, numbers):
        self.numbers = np.array(numbers)

    def __array__(self, dtype=None, copy=None):
        return self.numbers

    def __float__(self):
        return float(self.numbers)


@pytest.mark.parametrize(
    ("name", "option", "first", "second"),
    [
        ("SoftmaxCrossEntropy", "weight", [1.0, 1.0, 1.0], [5.0, 1.0, 2.0]),
        ("SoftmaxFocalLoss", "gamma", 2.0, 0.5),
        ("BCEWithLogits", "pos_weight", 1.0, 5.0),
        ("SigmoidFocalLoss", "alpha", [0.25, 0.25, 0.25], [0.5, 0.75, 0.25]),
    ],
)
def test_functions_see_that_an_option_has_changed(name, option, first, second):
    z, y = small_batch(name)
    function, given = getattr(fastce, FUNCTIONS[name]), Mutable(first)
    for numbers in (first, second):
        given.numbers = np.array(numbers)
        expected = getattr(fastce, name)(**{option: numbers})(z, y)
        assert function(z, y, **{option: given})[0] == expected
        if isinstance(numbers, list):
            elements = tuple(map(Mutable, numbers))
            assert function(z, y, **{option: elements})[0] == expected


@pytest.mark.parametrize("name", LOSSES)
def test_functions_take_options_and_arguments_together(name):
    options = inspect.signature(getattr(fastce, name)).parameters.values()
    call = inspect.signature(getattr(fastce, name)().value_and_grad).parameters.values()
    logits, target, *others = call
    function = inspect.signature(getattr(fastce, FUNCTIONS[name]))
    # Names, kinds, defaults and types, in this order.
    assert list(function.parameters.values()) == [logits, target, *options, *others]
    z = np.zeros((2, 3), np.float32)
    y = [0, 1] if name.startswith("Softmax") else np.zeros((2, 3))
    out = np.empty_like(z)
    assert getattr(fastce, FUNCTIONS[name])(z, y, out=out)[1] is out


@pytest.mark.parametrize("name", LOSSES)
def test_signatures(name):
    cls = getattr(fastce, name)
    options = inspect.signature(cls).parameters.values()
    assert all(p.kind is p.KEYWORD_ONLY for p in options)
    forward = {"sample_weight", "where", "normalizer", "loss_out"}
    for method, extra in (
        ("__call__", set()),
        ("value_and_grad", {"grad_output", "out"}),
        ("value_grad_hess", {"grad_output", "out"}),
    ):
        parameters = inspect.signature(getattr(cls(), method)).parameters
        assert set(parameters) == {"logits", "target"} | forward | extra
        for key in forward | extra:
            assert parameters[key].kind is inspect.Parameter.KEYWORD_ONLY
            assert parameters[key].default is None


# Outputs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", THOROUGH, ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_float32_out_of_16_bit_logits(c, dtype):
    batch = c.batch(dtype)
    loss = c.build()
    grad, hess = (np.empty(batch.logits.shape, np.float32) for _ in range(2))
    loss.value_grad_hess(batch.logits, batch.target, out=(grad, hess), **batch.call)
    wide = loss.value_grad_hess(batch.logits.astype(np.float32), batch.target, **batch.call)
    np.testing.assert_array_equal(grad, wide[1])
    np.testing.assert_array_equal(hess, wide[2])


@pytest.mark.parametrize("c", CASES, ids=str)
def test_inputs_are_left_alone(c):
    batch = c.batch("float32")
    arrays = [batch.logits, batch.target, *batch.call.values()]
    before = [copy.deepcopy(a) for a in arrays]
    c.build().value_grad_hess(batch.logits, batch.target, **batch.call)
    for a, b in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(a, b)
