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

Matplotlib's plot directive cannot replace the first. It draws a script in one style, the same for
the whole site; each figure here is a light and a dark picture above one caption. It draws a script
again for each page; the gallery shows every figure a second time. And tests look at the figure that
`draw()` returns; a script for the plot directive returns nothing.
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
from script_sources import sources
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


class ComputedDirective(SphinxDirective):
    def script(self, name):
        """Return the path of a script, and let the page depend on it and on what it reads."""
        script = Path(self.env.srcdir) / "computed" / f"{name}.py"
        for path in sources(script):
            self.env.note_dependency(str(path))
        return script

    def images(self, name, alt):
        """Draw a script's figure; return an image for each style, and the figure's width."""
        source = Path(self.env.srcdir)
        folder = source / "_build" / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        paths, width = draw(self.script(name), folder)
        images = [
            nodes.image(
                uri=f"/{path.relative_to(source).as_posix()}", alt=alt, classes=[f"only-{theme}"]
            )
            for theme, path in paths.items()
        ]
        return images, width


class FigureScript(ComputedDirective):
    required_arguments = 1
    has_content = True
    option_spec: ClassVar = {"alt": directives.unchanged_required}

    def run(self):
        images, width = self.images(self.arguments[0], self.options["alt"])
        children, messages = self.state.inline_text(" ".join(self.content), self.lineno)
        figure = nodes.figure(classes=["drawn", "wide"] if width > WIDE else ["drawn"])
        figure += [*images, nodes.caption("", "", *children), *messages]

        text = self.script(self.arguments[0]).read_text("utf-8")
        fold = '<details class="script"><summary>Code of this figure</summary>'
        return [
            figure,
            nodes.raw("", fold, format="html"),
            nodes.literal_block(text, text, language="python"),
            nodes.raw("", "</details>", format="html"),
        ]


class TableScript(ComputedDirective):
    required_arguments = 1

    def run(self):
        script = self.script(self.arguments[0])
        container = nodes.container(classes=["computed-table"])
        lines = StringList(load(script).table().splitlines(), str(script))
        self.state.nested_parse(lines, self.content_offset, container)
        return [container]


def setup(app):
    app.add_directive("figure-script", FigureScript)
    app.add_directive("table-script", TableScript)
    return {"parallel_read_safe": False, "version": "1"}
