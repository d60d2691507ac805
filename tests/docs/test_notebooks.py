"""A page and its notebook have the same code, in the same order, and the same output."""

import re

import pytest
from scripts import DOCS, PAGES, load

PYTHON = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)
OUTPUT = re.compile(r"^```output\n(.*?)^```$", re.M | re.S)


notebooks = load(DOCS / "_ext" / "notebooks.py")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_notebook_has_the_code_of_its_page(page):
    text = page.read_text("utf-8")
    cells = notebooks.notebook(text)["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert notebooks.is_offered(text) == bool(code)
    sources = ["".join(cell["source"]) for cell in code]
    assert sources == [block.strip("\n") for block in PYTHON.findall(text)]
    outputs = ["".join(out["text"]) for cell in code for out in cell["outputs"]]
    assert outputs == OUTPUT.findall(text)
    prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    assert "{py:" not in prose
    assert "-script}" not in prose


def test_text_keeps_what_a_notebook_can_show():
    text = (
        "---\nrequires: torch\n---\n(here)=\n# Title\n\n$x$ and {py:func}`~fastce.softmax`, "
        "[far](https://example.org), [near](page.md#part)\n\n"
        "```{figure-script} name\n:alt: text\n\nA caption.\n```\n"
        ":::{dropdown} Answer\n\n```python\nprint(1)\n```\n```output\n1\n```\n\nDone.\n:::\n"
        "```console\n$ ls\n```\n"
    )
    cells = [(c["cell_type"], "".join(c["source"])) for c in notebooks.notebook(text)["cells"]]
    assert cells == [
        (
            "markdown",
            "# Title\n\n$x$ and `fastce.softmax`, [far](https://example.org), near",
        ),
        ("markdown", "**Answer**"),
        ("code", "print(1)"),
        ("markdown", "Done."),
        ("markdown", "```console\n$ ls\n```"),
    ]
