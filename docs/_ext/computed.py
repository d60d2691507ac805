"""Two directives whose content is computed when the site is built; an error ends the build.

    ```{figure-script} bernoulli
    :alt: what the picture shows, in words

    The caption.
    ```

imports docs/computed/bernoulli.py and calls its `draw()`, which returns a matplotlib figure, once
in a light and once in a dark style. The reader sees the one that fits the theme, and the script,
folded, below it.

    ```{table-script} errors
    ```

imports docs/computed/errors.py and shows the Markdown that its `table()` returns: a table, or a
sentence with a number in it.
"""

import functools
import importlib.util
import sys
from pathlib import Path
from typing import ClassVar

import matplotlib
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

matplotlib.use("Agg")
from matplotlib import pyplot

SHARED = {
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 11.5,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "savefig.transparent": True,
    "svg.hashsalt": "fastce",  # the same figure gives the same file
}


def style(ink, grid, cycle):
    return SHARED | {
        "axes.edgecolor": grid,
        "axes.labelcolor": ink,
        "axes.prop_cycle": matplotlib.cycler(color=cycle),
        "axes.titlecolor": ink,
        "grid.color": grid,
        "text.color": ink,
        "xtick.color": grid,
        "xtick.labelcolor": ink,
        "ytick.color": grid,
        "ytick.labelcolor": ink,
    }


WIDE = 8  # inches: a figure that is wider is not shrunk to the width of a narrow screen

STYLES = {
    "light": style(
        "#24292f", "#d8dee4", ["#1a5fb4", "#c64600", "#26813f", "#813d9c", "#8a6d00", "#5e5c64"]
    ),
    "dark": style(
        "#d5dae0", "#454c54", ["#78aeed", "#ff9d5c", "#6fce86", "#d19be6", "#e0c35c", "#b5b2bd"]
    ),
}


def load(script):
    """Import a script by path; it may import its neighbours."""
    sys.path.insert(0, str(script.parent))
    try:
        spec = importlib.util.spec_from_file_location(f"computed_{script.stem}", script)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(script.parent))
    return module


@functools.cache  # a page and the gallery show the same pictures
def draw(script, folder):
    """Draw a script's figure in each style; return the paths of the pictures, and their width."""
    module = load(script)
    paths = {}
    for name, values in STYLES.items():
        with matplotlib.rc_context(values):
            figure = module.draw()
            paths[name] = folder / f"{script.stem}-{name}.svg"
            figure.savefig(paths[name], metadata={"Date": None})
            pyplot.close(figure)
    return paths, figure.get_figwidth()


class FigureScript(SphinxDirective):
    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {"alt": directives.unchanged_required}

    def run(self):
        source = Path(self.env.srcdir)
        script = source / "computed" / f"{self.arguments[0]}.py"
        folder = source / "_build" / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        self.env.note_dependency(str(script))

        paths, width = draw(script, folder)
        figure = nodes.figure(classes=["drawn", "wide"] if width > WIDE else ["drawn"])
        for name, path in paths.items():
            uri = f"/{path.relative_to(source).as_posix()}"
            figure += nodes.image(uri=uri, alt=self.options["alt"], classes=[f"only-{name}"])
        caption = nodes.caption()
        children, messages = self.state.inline_text(" ".join(self.content), self.lineno)
        caption += children
        figure += [caption, *messages]

        text = script.read_text("utf-8")
        code = nodes.literal_block(text, text, language="python")
        fold = '<details class="script"><summary>How it is drawn</summary>'
        return [
            figure,
            nodes.raw("", fold, format="html"),
            code,
            nodes.raw("", "</details>", format="html"),
        ]


class TableScript(SphinxDirective):
    required_arguments = 1

    def run(self):
        script = Path(self.env.srcdir) / "computed" / f"{self.arguments[0]}.py"
        self.env.note_dependency(str(script))
        container = nodes.container(classes=["computed-table"])
        lines = StringList(load(script).table().splitlines(), str(script))
        self.state.nested_parse(lines, self.content_offset, container)
        return [container]


def setup(app):
    app.add_directive("figure-script", FigureScript)
    app.add_directive("table-script", TableScript)
    return {"parallel_read_safe": False, "version": "1"}
