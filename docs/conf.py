"""How the site is built: `make docs`, or `sphinx-build -W docs docs/_build/html`."""

import sys
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy.typing as npt
from docutils import nodes
from sphinx import addnodes
from sphinx.util import inspect
from sphinx.util.typing import stringify_annotation

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
sys.path.append(str(HERE.parent))  # for bench, which makes the tables of its results

import fastce  # noqa: E402

project = "fastce"
author = "The fastce developers"
project_copyright = "The fastce developers"
release = version = fastce.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_design",
    "computed",
    "gallery",
    "notebooks",
]
exclude_patterns = ["_build"]
suppress_warnings = ["config.cache"]
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3
myst_links_external_new_tab = True

default_role = "py:obj"  # a link if the site has it, else code
highlight_language = "text"  # of literal blocks; doctests and fences say their own

toc_object_entries_show_parents = "hide"
autodoc_typehints = "signature"
maximum_signature_line_length = 88
autodoc_member_order = "bysource"
# Missing packages are mocked, so that the docstrings of their bridges appear all the same.
autodoc_mock_imports = [name for name in ("dask", "jax", "torch") if not find_spec(name)]
if "torch" in autodoc_mock_imports:  # the operators inherit from its classes, and a mock has none
    autodoc_mock_imports.append("fastce.torch._operators")
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"fastce {version}"
html_favicon = "_static/icon.svg"
html_static_path = ["_static"]
html_css_files = ["fastce.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#1a5fb4",
        "color-brand-content": "#1a5fb4",
        "color-brand-visited": "#1a5fb4",
    },
    "dark_css_variables": {
        "color-brand-primary": "#78aeed",
        "color-brand-content": "#78aeed",
        "color-brand-visited": "#78aeed",
    },
}
copybutton_selector = "div:not(.highlight-output) > div.highlight > pre"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# MathJax is served by the site itself, so that it can be read without a network.
MATHJAX_FILES = [
    "tex-chtml.js",
    *(f"output/chtml/fonts/woff-v2/{name}.woff" for name in [
        "MathJax_AMS-Regular",
        "MathJax_Calligraphic-Regular",
        "MathJax_Main-Bold",
        "MathJax_Main-Italic",
        "MathJax_Main-Regular",
        "MathJax_Math-BoldItalic",
        "MathJax_Math-Italic",
        "MathJax_Math-Regular",
        "MathJax_SansSerif-Regular",
        "MathJax_Script-Regular",
        "MathJax_Size1-Regular",
        "MathJax_Size2-Regular",
        "MathJax_Size3-Regular",
        "MathJax_Size4-Regular",
        "MathJax_Typewriter-Regular",
        "MathJax_Vector-Bold",
        "MathJax_Vector-Regular",
        "MathJax_Zero",
    ]),
]  # fmt: skip
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {
    "options": {"enableMenu": False},  # the menu would fetch more of MathJax
    "tex": {
        "macros": {
            "E": r"\mathbb{E}",
            "KL": r"\mathrm{KL}",
            "lse": r"\mathrm{lse}",
            "softplus": r"\mathrm{softplus}",
        }
    },
}


def copy_mathjax(app, exception):
    if exception is None and app.builder.format == "html":
        source = files("mathjax") / "static" / "mathjax" / "es5"
        for name in MATHJAX_FILES:
            copy = Path(app.outdir) / "_static" / "mathjax" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((source / name).read_bytes())


def prefer_the_package(app, doctree):
    """Let a bare name mean the package's own, unless the module at hand has one of that name."""
    for reference in doctree.findall(addnodes.pending_xref):
        name, module = reference["reftarget"], sys.modules.get(reference.get("py:module"))
        if name in fastce.__all__ and name not in getattr(module, "__all__", ()):
            reference["reftarget"] = f"fastce.{name}"


# NumPy's aliases as they are written in the source, not as the unions that they stand for.
ALIASES = {
    stringify_annotation(npt.ArrayLike, "smart"): "ArrayLike",
    stringify_annotation(npt.NDArray[Any], "smart"): "NDArray",
    "npt.ArrayLike": "ArrayLike",
}


def shorten_annotations(app, doctree):
    """Write the type of an array attribute as its alias."""
    for annotation in doctree.findall(addnodes.desc_annotation):
        if annotation.astext().startswith(": ndarray["):
            missing = " | None" * annotation.astext().endswith("| None")
            annotation.clear()
            annotation += nodes.Text(f": NDArray{missing}")


def readable(text):
    for written, alias in ALIASES.items():
        text = text and text.replace(written, alias)
    return text


def shown_signature(app, what, name, thing, options, signature, returns):
    """Shorten types; give a class whose base is mocked its own constructor's signature, or none."""
    if what == "class" and signature == "(*args, **kwargs)":
        if "__init__" not in vars(thing):
            return "", returns
        own = inspect.signature(vars(thing)["__init__"], bound_method=True)
        signature = inspect.stringify_signature(own, unqualified_typehints=True)
    if what == "class":
        signature = signature and signature.removesuffix(" -> None")
    return readable(signature), readable(returns)


def setup(app):
    app.connect("autodoc-process-signature", shown_signature)
    app.connect("doctree-read", prefer_the_package)
    app.connect("doctree-read", shorten_annotations)
    app.connect("build-finished", copy_mathjax)
