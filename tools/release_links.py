"""Makes the links of the README absolute, and states the project's addresses: for a release.

    python tools/release_links.py https://HOST/OWNER/NAME v1.0

Package indexes show the README without the files next to it. The workflow of releases,
which knows where the repository is, runs this before it builds the sdist; it changes README.md and
pyproject.toml in place.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)\s]+)\)")


def absolute(text: str, repository: str, reference: str) -> str:
    """Turn links to files into their URLs, and links to pictures into raw URLs."""

    def replace(match: re.Match[str]) -> str:
        picture, label, path = match.groups()
        file = path.partition("#")[0]
        if not (ROOT / file).exists():
            raise SystemExit(f"README.md links {path}, which does not exist")
        kind = "raw" if picture else "blob"
        return f"{picture}[{label}]({repository}/{kind}/{reference}/{path})"

    return LINK.sub(replace, text)


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit("usage: python tools/release_links.py REPOSITORY REFERENCE")
    repository, reference = sys.argv[1].rstrip("/"), sys.argv[2]
    readme, project = ROOT / "README.md", ROOT / "pyproject.toml"
    readme.write_text(absolute(readme.read_text("utf-8"), repository, reference), "utf-8")
    urls = (
        "[project.urls]\n"
        f'Source = "{repository}"\n'
        f'Changelog = "{repository}/blob/{reference}/CHANGELOG.md"\n'
        f'Issues = "{repository}/issues"\n\n'
    )
    before = "# For users. Nothing here"
    text = project.read_text("utf-8")
    if text.count(before) != 1:
        raise SystemExit(f"pyproject.toml has no longer one {before!r}: follow it here")
    project.write_text(text.replace(before, urls + before), "utf-8")


if __name__ == "__main__":
    main()
