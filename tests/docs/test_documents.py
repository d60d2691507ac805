"""Docstrings run and give what they show; the README agrees with the rest of the project."""

import doctest
import importlib
import json
import re
import tomllib
from pathlib import Path

import pytest
from processes import run

import fastce

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"

# What a module's examples need beside NumPy.
HOSTS = {
    "fastce.dask._graph": ["dask"],
    "fastce.dask": ["dask"],
    "fastce.jax._ffi": ["jax"],
    "fastce.jax": ["jax"],
    "fastce.objectives": ["catboost", "lightgbm", "xgboost"],
    "fastce.plots": ["matplotlib"],
    "fastce.torch._operators": ["torch"],
    "fastce.torch": ["torch"],
}


def readme_blocks():
    return re.findall(r"^```python\n(.*?)^```$", README.read_text("utf-8"), re.M | re.S)


def test_readme_has_blocks_of_both_kinds():
    assert {">>> " in code for code in readme_blocks()} == {True, False}


def test_readme_passes_strict_type_checking(tmp_path):
    pytest.importorskip("mypy")
    lines = []
    for code in readme_blocks():
        if ">>> " in code:
            examples = doctest.DocTestParser().get_examples(code)
            code = "".join(example.source for example in examples if not example.exc_msg)
        lines.append(code)
    script = tmp_path / "readme.py"
    script.write_text("\n".join(lines), encoding="utf-8")
    options = ["--strict", "--follow-imports=silent", "--config-file=", f"--cache-dir={tmp_path}"]
    # A bare name shows its value in a session.
    checked = run("-m", "mypy", *options, "--allow-redefinition", str(script), directory=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def modules():
    package = Path(fastce.__file__).parent
    for path in sorted(package.rglob("*.py")):
        *folders, name = path.relative_to(package.parent).with_suffix("").parts
        if name != "__main__":
            yield ".".join(folders if name == "__init__" else [*folders, name])


@pytest.mark.parametrize("name", list(modules()))
def test_docstrings(name, tmp_path, monkeypatch):
    for module, hosts in HOSTS.items():
        if f"{name}.".startswith(f"{module}."):
            for host in hosts:
                pytest.importorskip(host)
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    printed = []
    for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name)):
        runner.run(test, out=printed.append)
    assert not runner.failures, "".join(printed)


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
    text = README.read_text("utf-8")
    assert f"{readme.START}{readme.block(results)}{readme.END}" in text


def test_dependencies_that_are_listed_twice_agree():
    with open(ROOT / "pyproject.toml", "rb") as file:
        settings = tomllib.load(file)
    groups = settings["dependency-groups"]
    assert groups["build"] == settings["build-system"]["requires"]
    assert groups["demo"] == settings["project"]["optional-dependencies"]["demo"]
