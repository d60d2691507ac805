"""The package: what importing it does, its names, their types and documentation, its variants."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path

import pytest
from cases import FUNCTIONS, LOSSES
from processes import finish, output_of, run

import fastce


def test_importing_it_imports_nothing_but_numpy():
    code = """
        import sys
        import numpy
        before = set(sys.modules)
        import fastce
        assert "fastce.evaluation" not in sys.modules  # imported when it is first used
        fastce.evaluation, fastce.information, fastce.reference, fastce.sharded
        print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
    """
    result = run("-c", textwrap.dedent(code))
    assert result.returncode == 0, result.stderr
    ours = {"fastce", "numpy", "cython_runtime"}  # the last is made by any Cython module
    others = set(result.stdout.split()) - set(sys.stdlib_module_names) - ours
    assert not {name for name in others if not name.startswith("_cython_")}


def test_sources_without_compiled_modules_say_what_to_do(tmp_path):
    package = Path(fastce.__file__).parent
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    shutil.copytree(package, tmp_path / "fastce", ignore=ignored)
    code = """
        import sys
        editable = "_EditableFinder"  # it would find the modules of another copy
        sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "__name__", "") != editable]
        sys.path.insert(0, sys.argv[1])
        import fastce
    """
    result = finish(sys.executable, "-c", textwrap.dedent(code), tmp_path)
    assert result.returncode == 1
    message = f"ImportError: {tmp_path / 'fastce'} has the sources of fastce, but not"
    assert message in result.stderr.splitlines()[-1]


def test_import_time_is_small_beside_numpys():
    """The best of a few runs, in processor time, without NumPy's share."""
    best = float("inf")
    code = (
        "import numpy, time; t = time.process_time(); import fastce; print(time.process_time() - t)"
    )
    for _ in range(5):
        best = min(best, float(output_of(code)[0]))
        if best < 0.06:
            break
    assert best < 0.06


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
    with pytest.raises(AttributeError, match="module 'fastce' has no attribute 'cross_entropy'"):
        _ = fastce.cross_entropy


def test_the_configuration_can_be_shown(capsys):
    fastce.show_config()
    shown = capsys.readouterr().out
    assert fastce.__version__ in shown
    result = run("-m", "fastce")
    assert result.returncode == 0, result.stderr
    assert fastce.__version__ in result.stdout


def test_every_variant_can_be_forced():
    from fastce._call import variants

    code = "from fastce._call import variants; import fastce; fastce.show_config()"
    for name in variants.available():
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

    with open(script, "a") as file:  # the functions' options are known by name and type
        file.write("fastce.bce_with_logits(logits, logits, pos_wieght=2.0)\n")
        file.write("fastce.softmax_focal_loss(logits, [0, 1, 2, 0], gamma='2')\n")
    result = run("-m", "mypy", *options, str(script))
    assert 'Unexpected keyword argument "pos_wieght"' in result.stdout
    assert 'Argument "gamma"' in result.stdout
