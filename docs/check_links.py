"""Checks a built site: every link, anchor and file that a page refers to is there.

    python docs/check_links.py docs/_build/html

A site that can be read without a network loads nothing from one: a script, style, picture or font
from elsewhere is an error too. Links that lead elsewhere are counted, not followed.
"""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The anchors of a page, and what it links to and loads."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loads = {""}, [], []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors |= {values[key] for key in ("id", "name") if values.get(key)}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(values["href"])
        elif tag in ("img", "script", "iframe", "source") and "src" in values:
            self.loads.append(values["src"])


def broken(site):
    """Yield (page, address, reason), and return nothing if all is well."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        for address in page.loads + page.links:
            parts = urlsplit(address)
            if parts.scheme in ("http", "https") or parts.netloc:
                if address in page.loads:
                    yield path, address, "loaded from elsewhere"
                continue
            if parts.scheme:
                continue
            found = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if found.is_dir():
                found /= "index.html"
            if not found.is_file():
                yield path, address, "no such file"
            elif found in pages and unquote(parts.fragment) not in pages[found].anchors:
                yield path, address, "no such anchor"


def main():
    site = Path(sys.argv[1]).resolve()
    count = sum(1 for _ in site.rglob("*.html"))
    problems = list(broken(site))
    for path, address, reason in problems:
        print(f"{path.relative_to(site)}: {address}: {reason}", file=sys.stderr)
    print(f"{count} pages checked, {len(problems)} broken links")
    return bool(problems) or count == 0


if __name__ == "__main__":
    sys.exit(main())
