"""The public interface: what losses are, what calls take and return, threads, memory, imports."""

from __future__ import annotations

import copy
import inspect
import itertools
import os
import pickle
import subprocess
import sys
import textwrap
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cases import CASES, DTYPES, FUNCTIONS, THOROUGH, on_grid

import fastce

LOSSES = tuple(FUNCTIONS)
SAMPLES = [
    ("SoftmaxCrossEntropy", {}),
    ("SoftmaxCrossEntropy", {"label_smoothing": 0.1, "reduction": "none", "axis": 1}),
    ("SoftmaxCrossEntropy", {"weight": [0.5, 1.0, 2.0], "z_loss": 1e-4, "softcap": 30.0}),
    ("SoftmaxFocalLoss", {}),
    ("SoftmaxFocalLoss", {"gamma": 0.3, "alpha": [0.25, 1.0, 0.125], "ignore_index": 0}),
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
    for option, given in options.items():
        np.testing.assert_array_equal(getattr(loss, option), given)


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


@pytest.mark.parametrize("name", LOSSES)
def test_functions_take_options_and_arguments_together(name):
    options = set(inspect.signature(getattr(fastce, name)).parameters)
    call = set(inspect.signature(getattr(fastce, name)().value_and_grad).parameters)
    function = set(inspect.signature(getattr(fastce, FUNCTIONS[name])).parameters)
    assert function == options | call
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
@pytest.mark.parametrize("dtype", DTYPES)
def test_out_is_returned_and_filled(c, dtype):
    batch = c.batch(dtype)
    loss = c.build()
    grad, hess = np.empty_like(batch.logits), np.empty_like(batch.logits)
    expected = loss.value_and_grad(batch.logits, batch.target, **batch.call)
    result = loss.value_and_grad(batch.logits, batch.target, out=grad, **batch.call)
    assert result[1] is grad
    assert grad.tobytes() == expected[1].tobytes()
    grad[...] = 7
    expected = loss.value_grad_hess(batch.logits, batch.target, **batch.call)
    result = loss.value_grad_hess(batch.logits, batch.target, out=(grad, hess), **batch.call)
    assert result[1] is grad
    assert result[2] is hess
    assert grad.tobytes() == expected[1].tobytes()
    assert hess.tobytes() == expected[2].tobytes()


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


# Threads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("c", THOROUGH, ids=str)
def test_every_thread_count_gives_the_same_bits(c, isa, threads):
    c = replace(c, shape=(60_000, *c.shape[1:]))  # large enough to be split
    batch = c.batch("float32")
    loss = c.build()
    forward = {key: x for key, x in batch.call.items() if key != "grad_output"}
    results = []
    for n in (1, 2, 3, 7):
        threads(n)
        assert fastce.get_num_threads() == n
        value, grad, hess = loss.value_grad_hess(batch.logits, batch.target, **batch.call)
        alone = loss(batch.logits, batch.target, **forward)
        results.append([np.asarray(x).tobytes() for x in (value, grad, hess, alone)])
    assert all(r == results[0] for r in results)


@pytest.mark.parametrize("shape", [(500_000, 2), (3_000, 257), (40, 30_000), (6, 21, 70, 70)])
def test_every_thread_count_gives_the_same_bits_for_any_shape(shape, isa, threads, rng):
    axis = 1 if len(shape) == 4 else -1
    z = rng.normal(size=shape).astype(np.float32)
    y = rng.integers(shape[axis], size=np.delete(shape, axis))
    loss = fastce.SoftmaxCrossEntropy(axis=axis, label_smoothing=0.1)
    results = []
    for n in (1, 2, 5):
        threads(n)
        value, grad = loss.value_and_grad(z, y)
        results.append((value, grad.tobytes(), loss(z, y)))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
def test_every_thread_count_gives_the_same_functions(name, threads, rng):
    z = rng.normal(size=(3_000, 300)).astype(np.float32)
    y = rng.integers(300, size=3_000)
    results = []
    for n in (1, 2, 3):
        threads(n)
        arrays = (getattr(fastce, name)(z), *fastce.token_log_probs(z, y))
        results.append([a.tobytes() for a in arrays])
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("bad", [0, -1])
def test_a_number_of_threads_that_is_none(bad, threads):
    with pytest.raises(ValueError, match="thread"):
        threads(bad)


@pytest.mark.parametrize("bad", [1.5, "2", None])
def test_a_number_of_threads_that_is_no_integer(bad, threads):
    with pytest.raises(TypeError):
        threads(bad)


ROOT = str(Path(fastce.__file__).parents[1])


def run(*arguments, **environment):
    """The result of Python in a process of its own, which imports this very package."""
    path = os.pathsep.join(filter(None, [ROOT, os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-P", "-W", "error", *arguments],
        env={**os.environ, "PYTHONPATH": path, "MYPYPATH": ROOT, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_number_of_threads_of_the_environment():
    code = "import fastce; print(fastce.get_num_threads())"
    assert run("-c", code, FASTCE_NUM_THREADS="3").stdout.strip() == "3"
    assert run("-c", code, FASTCE_NUM_THREADS="none").returncode != 0


# Memory -------------------------------------------------------------------------------------------

MIB = 1 << 20


def peak(call):
    """The largest amount of memory that NumPy and Python hold during a call, beyond before."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("layout", "dtype"),
    [
        *itertools.product(
            ("rows", "axis 1", "fortran", "strided", "unaligned"), ("float32", "bfloat16")
        ),
        ("byte-swapped", "float32"),
        ("byte-swapped", "float16"),
        ("rows", "float64"),
        ("axis 1", "float64"),
    ],
)
def test_peak_memory_is_the_outputs_and_little_more(layout, dtype, rng):
    z = rng.normal(size=(2048, 1024)).astype(np.float32).astype(DTYPES[dtype])
    axis = -1
    if layout == "axis 1":
        z, axis = z.reshape(8, 256, 32, 32), 1
    elif layout == "fortran":
        z = np.asfortranarray(z)
    elif layout == "strided":
        z = np.repeat(z, 2, axis=1)[:, ::2]
    elif layout == "byte-swapped":
        z = z.astype(z.dtype.newbyteorder("S"))
    elif layout == "unaligned":
        room = np.zeros(z.nbytes + 1, np.uint8)
        room[1:] = z.view(np.uint8).ravel()
        z = room[1:].view(z.dtype).reshape(z.shape)
    y = rng.integers(z.shape[axis], size=np.delete(z.shape, axis))
    loss = fastce.SoftmaxCrossEntropy(axis=axis, label_smoothing=0.1, reduction="none")
    loss.value_and_grad(z, y)  # the first large call imports and starts the thread pool
    per_row = 8 * y.size
    assert peak(lambda: loss(z, y)) < per_row + MIB
    assert peak(lambda: loss.value_and_grad(z, y)) < z.nbytes + per_row + MIB
    assert peak(lambda: loss.value_grad_hess(z, y)) < 2 * z.nbytes + per_row + MIB
    if layout == "rows":
        assert peak(lambda: loss.value_and_grad(z, y, out=z)) < per_row + MIB


@pytest.mark.parametrize("name", ["BCEWithLogits", "SigmoidFocalLoss"])
@pytest.mark.parametrize("soft", [False, True])
def test_peak_memory_of_the_sigmoid_family(name, soft, rng):
    """The small arguments are broadcast without being built large."""
    z = rng.normal(size=(2048, 1024)).astype(np.float32)
    y = rng.random(z.shape) if soft else rng.integers(2, size=z.shape).astype(np.uint8)
    call = {
        "sample_weight": rng.random((2048, 1)),
        "where": rng.random(1024) < 0.5,
    }
    options = {"pos_weight": rng.random(1024)} if name == "BCEWithLogits" else {"gamma": 1.5}
    loss = getattr(fastce, name)(**options)
    loss.value_and_grad(z, y)  # the first large call imports and starts the thread pool
    assert peak(lambda: loss(z, y, **call)) < MIB
    assert peak(lambda: loss.value_and_grad(z, y, **call)) < z.nbytes + MIB
    assert peak(lambda: loss.value_grad_hess(z, y, **call)) < 2 * z.nbytes + MIB
    assert peak(lambda: loss.value_and_grad(z, y, out=z, **call)) < MIB


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_peak_memory_of_the_functions(dtype, rng):
    z = on_grid(rng, (1024, 2048)).astype(dtype)
    y = rng.integers(2048, size=1024)
    fastce.softmax(z)  # the first large call imports and starts the thread pool
    for name in ("softmax", "log_softmax"):
        assert peak(lambda name=name: getattr(fastce, name)(z)) < z.nbytes + MIB
        assert peak(lambda name=name: getattr(fastce, name)(z, out=z)) < MIB
    assert peak(lambda: fastce.logsumexp(z)) < MIB
    assert peak(lambda: fastce.token_log_probs(z, y)) < MIB


# The package --------------------------------------------------------------------------------------


def test_importing_it_imports_nothing_but_numpy():
    code = """
        import sys
        import numpy
        before = set(sys.modules)
        import fastce
        print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
    """
    result = run("-c", textwrap.dedent(code))
    assert result.returncode == 0, result.stderr
    ours = {"fastce", "numpy", "cython_runtime"}  # the last is made by any Cython module
    others = set(result.stdout.split()) - set(sys.stdlib_module_names) - ours
    assert not {name for name in others if not name.startswith("_cython_")}


def test_importing_it_starts_no_thread():
    code = """
        import sys
        import numpy
        import fastce
        fastce.softmax_cross_entropy(numpy.zeros((4, 3), numpy.float32), [0, 1, 2, 0])
        print(len(sys._current_frames()))
    """
    assert run("-c", textwrap.dedent(code)).stdout.strip() == "1"


def test_public_names_exist():
    for name in fastce.__all__:
        assert hasattr(fastce, name)
    for name in (
        *LOSSES,
        *FUNCTIONS.values(),
        "softmax",
        "log_softmax",
        "logsumexp",
        "token_log_probs",
        "TokenLogProbs",
        "set_num_threads",
        "get_num_threads",
        "show_config",
    ):
        assert name in fastce.__all__


def test_the_configuration_can_be_shown(capsys):
    fastce.show_config()
    shown = capsys.readouterr().out
    assert fastce.__version__ in shown
    result = run("-m", "fastce")
    assert result.returncode == 0, result.stderr
    assert fastce.__version__ in result.stdout


@pytest.mark.parametrize("name", [*LOSSES, *FUNCTIONS.values(), "softmax", "token_log_probs"])
def test_public_things_are_documented(name):
    text = inspect.getdoc(getattr(fastce, name))
    assert text
    assert "Parameters" in text
    assert ">>>" in text


def test_every_variant_can_be_forced():
    from fastce import _isa

    code = "from fastce import _isa; import fastce; fastce.show_config()"
    for name in _isa.available():
        result = run("-c", code, FASTCE_ISA=name)
        assert result.returncode == 0, result.stderr
        assert name in result.stdout
    result = run("-c", "import fastce", FASTCE_ISA="no-such-set")
    assert result.returncode != 0
    assert "no-such-set" in result.stderr


def test_users_scripts_are_typed(tmp_path):
    """mypy --strict accepts a script that uses the public names, and sees their types."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import numpy as np

            import fastce

            logits = np.zeros((4, 3), np.float32)
            ce = fastce.SoftmaxCrossEntropy(label_smoothing=0.1, weight=[1.0, 2.0, 1.0])
            loss, grad = ce.value_and_grad(logits, [0, 1, 2, 0], out=np.empty_like(logits))
            loss, grad, hess = ce.value_grad_hess(logits, np.array([0, 1, 2, 0]))
            shape: tuple[int, ...] = grad.shape
            fastce.bce_with_logits(logits, logits, pos_weight=2.0)
            p = fastce.softmax(logits, axis=0)
            print(fastce.token_log_probs(logits, [0, 1, 2, 0]).log_prob.sum(), p.sum())
            fastce.set_num_threads(fastce.get_num_threads())
            """
        )
    )
    options = ["--strict", "--follow-imports=silent", "--cache-dir", str(tmp_path)]
    result = run("-m", "mypy", *options, str(script))
    assert result.returncode == 0, result.stdout + result.stderr
