"""Docstrings run and give what they show; the README agrees with the rest of the project."""

import doctest
import inspect
import json
import re
import tomllib
from pathlib import Path

import pytest
from processes import run
from scripts import PAGES, ROOT
from sybil import Sybil
from sybil.document import PythonDocStringDocument
from sybil.parsers.rest import DocTestParser

import fastce

README = ROOT / "README.md"

PACKAGE = Path(fastce.__file__).parent
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path.name != "__main__.py"]
HOSTS = {  # what the examples of a folder or module need in addition to NumPy
    "dask": ["dask"],
    "jax": ["jax"],
    "objectives": ["catboost", "lightgbm", "xgboost"],
    "plots.py": ["matplotlib"],
    "torch": ["torch"],
}
DOCSTRINGS = Sybil(
    [DocTestParser(doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)],
    document_types={".py": PythonDocStringDocument},
)


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


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_docstrings(path, tmp_path, monkeypatch):
    for host in HOSTS.get(path.relative_to(PACKAGE).parts[0], []):
        pytest.importorskip(host)
    monkeypatch.chdir(tmp_path)
    examples = list(DOCSTRINGS.parse(path).examples())
    for example in examples:
        example.evaluate()
    assert len(examples) == len(re.findall(r"^ *>>> ", path.read_text("utf-8"), re.M))


@pytest.mark.parametrize("name", fastce.__all__)
def test_public_name_has_an_example_and_its_parameters(name):
    thing = getattr(fastce, name)
    if callable(thing):
        assert thing.__doc__
        assert ">>> " in thing.__doc__
        if inspect.signature(thing).parameters and name != "TokenLogProbs":  # a tuple of results
            assert "Parameters" in thing.__doc__


def test_links_between_documents_lead_somewhere():
    links = []
    for document in ROOT.glob("*.md"):
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert (document.parent / target).exists(), f"{document.name}: {target}"
            links.append(target)
    assert len(links) > 10


DOCUMENTS = [*ROOT.glob("*.md"), *PAGES]


def test_tests_that_documents_name_exist():
    """Files by path or by name, and functions; only a changelog may name what is gone."""
    files = sorted((ROOT / "tests").rglob("*.py"))
    paths = {str(path.relative_to(ROOT)).replace("\\", "/") for path in files}
    names = {name for path in files for name in (path.name, path.stem)}
    functions = {
        name
        for path in files
        for name in re.findall(r"^ *def (\w+)", path.read_text("utf-8"), re.M)
    }
    named = 0
    for document in DOCUMENTS:
        if document.name.lower() == "changelog.md":
            continue
        text = document.read_text("utf-8")
        known = paths | names | functions
        found = re.findall(r"\btests/[\w/]+\.py\b|(?<![\w/])test_\w+(?:\.py)?\b(?!\()", text)
        missing = sorted({name for name in found if name not in known})
        assert not missing, f"{document.relative_to(ROOT)} names tests that do not exist: {missing}"
        named += len(found)
    assert named > 20


def test_readme_shows_the_last_benchmark(monkeypatch):
    """`python -m bench.readme` updates it."""
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
