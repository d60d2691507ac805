"""The documentation runs: each Python block of README and pages, and what they say it prints.

A page is one program: its ```python blocks run in order, in one namespace. An ```output block must
be what the block before it printed, up to white space; there, "..." stands for anything. A block
without an output block must print nothing. A block with >>> prompts is a doctest. A page may name
in its front matter, as `requires: a b`, what its code needs in addition to the packages of the test
suite.
"""

import contextlib
import doctest
import io
import re

import matplotlib
import numpy as np
import pytest
from scripts import DOCS, PAGES, ROOT, load
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.figure import Figure

COMPUTED = DOCS / "computed"
FIGURES = [
    path for path in sorted(COMPUTED.glob("*.py")) if "\ndef draw(" in path.read_text("utf-8")
]
TABLES = [
    path for path in sorted(COMPUTED.glob("*.py")) if "\ndef table(" in path.read_text("utf-8")
]
REQUIRES = re.compile(r"\A---\n(?:.*\n)*?requires: (.*)\n(?:.*\n)*?---\n")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def compare(example):
    """Compare an output block with what the block before it has printed."""
    printed = example.namespace.get("printed", "")
    if not doctest.OutputChecker().check_output(example.parsed, printed, FLAGS):
        return f"the block printed\n{printed}\nwhere the page has\n{example.parsed}"
    return None


SYBIL = Sybil([PythonCodeBlockParser((), FLAGS), CodeBlockParser("output", compare)])


def run_page(path):
    """Run a page; return the number of examples that were run."""
    document = SYBIL.parse(path)
    names = document.namespace
    names.update(__name__="__main__", __file__=str(path))
    examples = list(document.examples())
    for example, following in zip(examples, [*examples[1:], None], strict=False):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            example.evaluate()
        names["printed"] = printed.getvalue()
        if following is None or following.region.evaluator is not compare:
            where = f"{path}:{example.line}: the block printed\n"
            assert not names["printed"], where + names["printed"]
    return len(examples)


@pytest.fixture(autouse=True)
def away_from_the_checkout(monkeypatch, tmp_path):
    """Let pages write files where they do no harm, and leave no figure open."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.syspath_prepend(str(COMPUTED))
    yield
    pyplot.close("all")


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *PAGES], ids=lambda p: str(p.relative_to(ROOT))
)
def test_page_runs(page):
    text = page.read_text("utf-8")
    if required := REQUIRES.match(text):
        for package in required[1].split():
            pytest.importorskip(package)
    blocks = re.findall(r"^`{3,}(?:python|output)$", text, re.M)
    assert run_page(page) >= len(blocks)


def test_the_guide_is_made_of_code_that_prints():
    for page in sorted((DOCS / "guide").glob("*.md")):
        text = page.read_text("utf-8")
        assert page.stem == "index" or "```python\n" in text, page
        assert page.stem == "index" or "```output\n" in text, page


@pytest.mark.parametrize("script", FIGURES, ids=lambda path: path.stem)
def test_figure_is_drawn(script):
    figure = load(script).draw()
    assert isinstance(figure, Figure)
    drawn = [ax for ax in figure.axes if ax.has_data()]
    assert drawn
    for ax in drawn:
        for line in ax.get_lines():
            assert np.isfinite(np.asarray(line.get_ydata(), dtype=float)).any()
    figure.canvas.draw()


@pytest.mark.parametrize("script", TABLES, ids=lambda path: path.stem)
def test_table_is_made(script):
    text = load(script).table()
    assert "nan" not in text
    assert len(text) > 40


@pytest.mark.parametrize(("directive", "scripts"), [("figure", FIGURES), ("table", TABLES)])
def test_what_is_computed_is_shown_and_what_is_shown_exists(directive, scripts):
    opening = re.compile(rf"^`{{3,}}\{{{directive}-script\}} (\w+)$", re.M)
    shown = {name for page in PAGES for name in opening.findall(page.read_text("utf-8"))}
    assert shown == {path.stem for path in scripts}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```python\nprint(1)\n```\n```output\n2\n```\n", "printed\n1\n"),
        ("```python\nprint(1)\n```\n", "page.md:1: the block printed"),
        ("```output\n1\n```\n", "the page has\n1\n"),
        ("```python\nprint(1)\n```\n```python\npass\n```\n", "page.md:1: the block printed"),
        ("```python\npass\n```\n```output\n1\n```\n", "the page has\n1\n"),
        ("```python\n>>> 1 + 1\n3\n```\n", "Expected:\n    3\nGot:\n    2\n"),
    ],
)
def test_a_page_that_is_wrong_is_found(tmp_path, text, message):
    page = tmp_path / "page.md"
    page.write_text(text, "utf-8")
    with pytest.raises(AssertionError, match=re.escape(message)):
        run_page(page)


def test_blocks_share_names_and_errors_name_the_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 3\n```\n\n```python\n>>> x + 1\n4\n```\n", "utf-8")
    assert run_page(page) == 2
    page.write_text("text\n\n```python\nx = 3\ny = x / 0\n```\n", "utf-8")
    with pytest.raises(ZeroDivisionError) as caught:
        run_page(page)
    assert caught.traceback[-1].lineno + 1 == 5


def test_a_page_is_made_again_when_results_change():
    """Whatever reads them, directly or through an import."""
    scripts = load(DOCS / "_ext" / "script_sources.py")
    results = {ROOT / "bench/results/results.json", ROOT / "bench/results/accuracy.md"}
    for name in ("speed", "error_by_classes", "accuracy_peers"):
        assert results < scripts.sources(COMPUTED / f"{name}.py")
    assert scripts.sources(COMPUTED / "overfitting.py") == {
        COMPUTED / "overfitting.py",
        COMPUTED / "overfitting_run.py",
    }


def test_broken_links_are_found(tmp_path):
    check_links = load(DOCS / "check_links.py")
    page = tmp_path / "page.html"
    good = '<h1 id="here"></h1><a href="#here"></a><a href="page.html#here"></a><img src="a.svg">'
    (tmp_path / "a.svg").write_text("", "utf-8")
    page.write_text(good, "utf-8")
    assert not list(check_links.broken(tmp_path))
    page.write_text(
        '<a href="#gone"></a><a href="gone.html"></a><script src="https://example.org/a.js">'
        '</script><a href="https://example.org/">elsewhere</a>',
        "utf-8",
    )
    assert {reason for _, _, reason in check_links.broken(tmp_path)} == {
        "no such anchor",
        "no such file",
        "loaded from elsewhere",
    }


UNRENDERED = {
    "<p>| a | : |\n| --- | : |\n| 1 | 2 |</p>": "row of a table that was not rendered",
    "<p>See {py:func}`softmax`.</p>": "role that was not rendered",
    "<td>:math:`x`</td>": "role that was not rendered",
    "<p>.. note::</p>": "directive that was not rendered",
    "<p>```python</p>": "fence that was not rendered",
    "<p>[a page](page.md)</p>": "link that was not rendered",
    "<li>This is **bold**.</li>": "emphasis or code that was not rendered",
    "<td>=======</td>": "leftover of a merge that was not rendered",
}


@pytest.mark.parametrize("html", UNRENDERED)
def test_markup_that_was_not_rendered_is_found(tmp_path, html):
    check_links = load(DOCS / "check_links.py")
    page = tmp_path / "page.html"
    page.write_text(f"<div><br>{html}<p>text</p></div>", "utf-8")
    assert [reason for _, _, reason in check_links.unrendered(tmp_path)] == [UNRENDERED[html]]
    # The same is fine as code, in a formula, and as the source of a module.
    for verbatim in ("<code>{}</code>", "<pre>{}</pre>", '<span class="math">{}</span>'):
        page.write_text(f"<div>{verbatim.format(html)}<p>|x| ‖ y</p></div>", "utf-8")
        assert not list(check_links.unrendered(tmp_path))


def test_tables_of_benchmarks_are_tables(monkeypatch):
    """A column whose header and cells are empty still needs its dashes."""
    from bench.report import table

    header, rule, row = table(["cell", ""], [["x", ""]], 1).splitlines()
    assert header.count("|") == row.count("|") == 3
    assert re.fullmatch(r"\| -{3,} \| -{2,}: \|", rule)
