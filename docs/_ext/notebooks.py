"""Offers a Jupyter notebook of each page that has code: its text, code and output.

The page stays the source. Its ```python blocks become code cells, an ```output block the output of
the cell before it, and the rest Markdown, without what only this site can show.
"""

import json
import re
from pathlib import Path

FENCE = re.compile(r"^(`{3,}|:{3,})(.*)\n((?:.*\n)*?)\1[ ]*$", re.M)
COMMENT = re.compile(r"\A---\n(?:.*\n)*?---\n|^\([\w-]+\)=\n", re.M)
ROLE = re.compile(r"\{[\w:]+\}`~?([^`<]+?)(?: <[^>]+>)?`")
TITLE = re.compile(r"\{([\w-]+)\}[ \d]*(.*)")
OPTION = re.compile(r"^:[\w-]+:.*\n", re.M)
LINK = re.compile(r"\[([^]]+)\]\((?!https?:)[^)]+\)")


def cell(kind, text, outputs=None):
    made = {"cell_type": kind, "metadata": {}, "source": text.strip("\n").splitlines(keepends=True)}
    if kind == "code":
        made |= {"execution_count": None, "outputs": outputs or []}
    return made


def markdown(text):
    """Return the cells of a text: one, or none if nothing is left of it."""
    text = LINK.sub(r"\1", ROLE.sub(r"`\1`", COMMENT.sub("", text))).strip()
    return [cell("markdown", text)] if text else []


def cells_of(text):
    """Return the cells of a page, or of a directive's content."""
    cells, end = [], 0
    for fence in FENCE.finditer(text):
        cells += markdown(text[end : fence.start()])
        end = fence.end()
        kind, body = fence[2].strip(), fence[3]
        if kind == "python":
            cells.append(cell("code", body))
        elif kind == "output":
            printed = {"output_type": "stream", "name": "stdout"}
            cells[-1]["outputs"] = [printed | {"text": body.splitlines(keepends=True)}]
        elif fence[1].startswith(":"):  # its content, below its title
            title = TITLE.match(kind)[2]
            cells += [*markdown(f"**{title}**" if title else ""), *cells_of(OPTION.sub("", body))]
        elif not kind.startswith("{"):
            cells += markdown(f"```{kind}\n{body}```")
    return cells + markdown(text[end:])


def notebook(text):
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    cells = [{"id": f"cell-{i}", **made} for i, made in enumerate(cells_of(text))]
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def is_offered(text):
    return re.search(r"^```python$", text, re.M) is not None


def offer(app, name, template, context, doctree):
    """Add the link to a page, and write the notebook that it leads to."""
    source = Path(app.srcdir) / f"{name}.md"
    if app.builder.format != "html" or not source.exists():
        return
    text = source.read_text("utf-8")
    if is_offered(text):
        made = Path(app.outdir) / f"{name}.ipynb"
        made.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(json.dumps(notebook(text), ensure_ascii=False, indent=1), "utf-8")
        link = f'<a href="{made.name}" download>Download this page as a notebook</a>'
        context["body"] += f'<p class="notebook">{link}</p>'


def setup(app):
    app.connect("html-page-context", offer)
    return {"parallel_read_safe": False, "version": "1"}
