"""The number of Python blocks on the site and in the README."""

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent
PYTHON = re.compile(r"^`{3,}python$", re.M)


def blocks(paths):
    counts = [len(PYTHON.findall(path.read_text("utf-8"))) for path in paths]
    return sum(counts), sum(count > 0 for count in counts)


def table():
    pages = [path for path in DOCS.glob("**/*.md") if "_build" not in path.parts]
    on_site, with_code = blocks(pages)
    of_guide, _ = blocks((DOCS / "guide").glob("*.md"))
    in_readme, _ = blocks([DOCS.parent / "README.md"])
    return (
        f"This guide has {of_guide} blocks of Python. The whole site has {on_site} on {with_code} "
        f"pages, and the README has {in_readme}."
    )
