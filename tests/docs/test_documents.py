"""Everything that the documents and docstrings show as code is run, and gives what they show."""

import doctest
import importlib
import importlib.util
import json
import os
import pkgutil
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

import fastce

ROOT = Path(__file__).parents[2]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

# What a module's examples need beside NumPy.
HOSTS = {
    "fastce._dask_graph": ["dask"],
    "fastce.dask": ["dask"],
    "fastce._jax_call": ["jax"],
    "fastce.jax": ["jax"],
    "fastce.objectives": ["catboost", "lightgbm", "xgboost"],
    "fastce.plots": ["matplotlib"],
    "fastce._torch_operators": ["torch"],
    "fastce.torch": ["torch"],
}


def python_blocks(document):
    """Return the line number and the text of each fenced block of Python."""
    text = document.read_text(encoding="utf-8")
    fence = re.compile(r"^(?P<indent> *)```python\n(?P<code>.*?)^(?P=indent)```$", re.M | re.S)
    return [
        (text.count("\n", 0, match.start("code")), textwrap.dedent(match.group("code")))
        for match in fence.finditer(text)
    ]


def run_doctest(test):
    printed = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    runner.run(test, out=printed.append, clear_globs=False)
    assert not runner.failures, "".join(printed)


def documents():
    return [
        path
        for folder in (ROOT, ROOT / "examples")
        for path in sorted(folder.glob("*.md"))
        if python_blocks(path)
    ]


@pytest.mark.parametrize("document", documents(), ids=lambda path: path.name)
def test_python_blocks_run(document, tmp_path, monkeypatch):
    """The blocks of a document are one session: each sees the names of those before it."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    for line, code in python_blocks(document):
        if ">>> " in code:
            parsed = doctest.DocTestParser().get_doctest(
                code, names, document.name, str(document), line
            )
            run_doctest(parsed)
            names = parsed.globs
        else:
            # Blank lines in front make a traceback name the document's own line.
            exec(compile("\n" * line + code, str(document), "exec"), names)


def test_readme_has_blocks_of_both_kinds():
    blocks = [code for _, code in python_blocks(ROOT / "README.md")]
    assert any(">>> " in code for code in blocks)
    assert any(">>> " not in code for code in blocks)


def test_readme_passes_strict_type_checking(tmp_path):
    pytest.importorskip("mypy")
    lines = []
    for _, code in python_blocks(ROOT / "README.md"):
        if ">>> " in code:
            examples = doctest.DocTestParser().get_examples(code)
            code = "".join(example.source for example in examples if not example.exc_msg)
        lines.append(code)
    script = tmp_path / "readme.py"
    script.write_text("\n".join(lines), encoding="utf-8")
    checked = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--follow-imports=silent",
            "--config-file=",
            f"--cache-dir={tmp_path}",
            # A bare name shows its value in a session.
            "--allow-redefinition",
            str(script),
        ],
        env=os.environ | {"MYPYPATH": str(Path(fastce.__file__).parent.parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def modules():
    names = [module.name for module in pkgutil.iter_modules(fastce.__path__, "fastce.")]
    return ["fastce"] + [
        name for name in names if name != "fastce.__main__" and "._core" not in name
    ]


@pytest.mark.parametrize("name", modules())
def test_docstrings(name, tmp_path, monkeypatch):
    for host in HOSTS.get(name, []):
        pytest.importorskip(host)
    monkeypatch.chdir(tmp_path)
    for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name)):
        run_doctest(test)


@pytest.mark.parametrize("name", fastce.__all__)
def test_public_name_has_an_example(name):
    thing = getattr(fastce, name)
    if callable(thing):
        assert thing.__doc__
        assert ">>> " in thing.__doc__


def test_links_between_documents_lead_somewhere():
    for document in ROOT.glob("*.md"):
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_readme_shows_the_last_benchmark(monkeypatch):
    """`python -m bench.readme` mends it."""
    monkeypatch.syspath_prepend(str(ROOT))
    from bench import readme

    results = json.loads((ROOT / "bench/results/results.json").read_text("utf-8"))
    text = (ROOT / "README.md").read_text("utf-8")
    assert f"{readme.START}{readme.block(results)}{readme.END}" in text


def test_dependencies_that_are_listed_twice_agree():
    with open(ROOT / "pyproject.toml", "rb") as file:
        settings = tomllib.load(file)
    groups = settings["dependency-groups"]
    assert groups["build"] == settings["build-system"]["requires"]
    assert groups["demo"] == settings["project"]["optional-dependencies"]["demo"]
