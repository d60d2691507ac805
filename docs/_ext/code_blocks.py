"""Runs the Python of a page, and compares what it prints with what the page says.

A page is one program: its ```python blocks run in order, in one namespace. An ```output block must
be what the block before it printed, up to white space; there, "..." stands for anything. A block
without an output block must print nothing. A block with >>> prompts is a doctest. The site's build
and the test suite both run the pages through `run_page`. A page may name in its front matter, as
`requires: a b`, what its code needs beside the packages of the test suite; the tests skip it where
one of them is missing.
"""

import contextlib
import doctest
import importlib.util
import io
import re
import tempfile
from pathlib import Path

FENCE = re.compile(
    r"^(?P<fence>`{3,})(?P<language>[^`\n]*)\n(?P<body>.*?)^(?P=fence)\s*$", re.M | re.S
)
REQUIRES = re.compile(r"\A---\n(?:.*\n)*?requires: (.*)\n(?:.*\n)*?---\n")
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
SAME = doctest.OutputChecker()


class PageError(Exception):
    """A page does not do what it says."""


def required(text):
    """Return the names of the packages that a page needs."""
    match = REQUIRES.match(text)
    return match[1].split() if match else []


def run_page(path):
    """Run a page and return the number of its Python blocks."""
    path = Path(path)
    text = path.read_text("utf-8")
    found = [fence for fence in FENCE.finditer(text) if fence["language"] in ("python", "output")]
    namespace = {"__name__": "__main__", "__file__": str(path)}
    count = 0
    for this, following in zip(found, [*found[1:], None], strict=False):
        line = text.count("\n", 0, this.start("body"))  # lines before the block's first
        is_answered = following is not None and following["language"] == "output"
        if this["language"] == "output":
            if is_answered or this is found[0]:
                raise PageError(f"{path}:{line}: output without the code that prints it")
            continue
        count += 1
        printed = run_block(this["body"], namespace, path, line)
        expected = following["body"] if is_answered else ""
        if not SAME.check_output(expected, printed, FLAGS):
            raise PageError(
                f"{path}:{line}: the block printed\n{printed}\nwhere the page has\n{expected}"
            )
    return count


def run_block(code, namespace, path, line):
    """Run one block in the namespace and return what it printed."""
    if ">>> " in code:
        test = doctest.DocTestParser().get_doctest(code, namespace, path.name, str(path), line)
        report = []
        doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append, clear_globs=False)
        if report:
            raise PageError("".join(report))
        namespace.update(test.globs)
        return ""
    printed = io.StringIO()
    # Empty lines in front make a traceback name the page's own line.
    with contextlib.redirect_stdout(printed):
        exec(compile("\n" * line + code, str(path), "exec"), namespace)
    return printed.getvalue()


def run_pages(app, env, docnames):
    """Run the pages that are about to be read; an error ends the build.

    A page whose packages are missing is not run, and the build says so: torch is not worth a site.
    """
    from sphinx.util.logging import getLogger  # the tests use this module without Sphinx

    for name in sorted(docnames):
        page = Path(env.doc2path(name)).resolve()
        missing = [p for p in required(page.read_text("utf-8")) if not importlib.util.find_spec(p)]
        if missing:
            getLogger(__name__).info("not run, for want of %s: %s", ", ".join(missing), name)
        else:
            # Away from the checkout: pages may write files.
            with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
                run_page(page)


def setup(app):
    app.connect("env-before-read-docs", run_pages)
    return {"parallel_read_safe": False, "version": "1"}
