"""Checks a built site: all links, anchors and files exist, and no markup is left in the text.

    python docs/check_links.py docs/_build/html

The site can be read without a network, so a script, style, picture or font from another site is an
error. Links to other sites are not followed.

Markup that was not rendered is text that a reader should not see: the pipes of a table, a fence, a
role or a directive. A build does not warn of it, because to the parser it is a paragraph.
"""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# As they look in text. Code and formulas may contain any of them.
UNRENDERED = {
    "row of a table": re.compile(r"(?m)^\s*\|.*\|\s*$"),
    "fence": re.compile(r"```|~~~|(?m:^\s*:::)"),
    "role": re.compile(r":[a-z]+(:[a-z]+)*:`|\{[a-z:]+\}`"),
    "directive": re.compile(r"(?m)^\s*\.\. [a-z-]+::"),
    "link": re.compile(r"\]\([^)\s]*\)|\]\["),
    "emphasis or code": re.compile(r"\*\*|`"),
    "formula": re.compile(r"\$\$|\\[a-z]+\{"),
    "leftover of a merge": re.compile(r"={7}|<{7}|>{7}"),
}
VERBATIM = {"code", "pre", "script", "style", "title"}
VOID = {"area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"}
BLOCKS = {"p", "li", "td", "th", "dd", "dt", "div", "section", "h1", "h2", "h3", "h4"}


class Page(HTMLParser):
    """The anchors of a page, what it links to and loads, and its text."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loads = {""}, [], []
        self.blocks = [""]  # of text that is neither code nor a formula
        self.open = []  # tags, and whether each begins something verbatim
        self.feed(path.read_text("utf-8"))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)  # in a drawing
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        while self.open and tag in (name for name, _ in self.open):
            if self.open.pop()[0] == tag:
                break
        if tag in BLOCKS:
            self.blocks.append("")

    def handle_data(self, data):
        is_verbatim = any(verbatim for _, verbatim in self.open)
        self.blocks[-1] += "…" if is_verbatim else data

    def unrendered(self):
        """Yield (kind, text) for each piece of markup that the reader would see."""
        for block in self.blocks:
            for kind, pattern in UNRENDERED.items():
                if found := pattern.search(block):
                    yield kind, " ".join(block[max(found.start() - 20, 0) :].split())[:70]
                    break

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag in BLOCKS:
            self.blocks.append("")
        if tag not in VOID:
            classes = (values.get("class") or "").split()
            self.open.append((tag, tag in VERBATIM or "math" in classes or "sig" in classes))
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


def unrendered(site):
    """Yield (page, text, reason) for markup that was not rendered."""
    for path in sorted(site.rglob("*.html")):
        if "_modules" not in path.relative_to(site).parts:  # source, as it is
            for kind, text in Page(path).unrendered():
                yield path, text, f"{kind} that was not rendered"


def main():
    site = Path(sys.argv[1]).resolve()
    count = sum(1 for _ in site.rglob("*.html"))
    problems = [*broken(site), *unrendered(site)]
    for path, what, reason in problems:
        print(f"{path.relative_to(site)}: {what}: {reason}", file=sys.stderr)
    print(f"{count} pages checked, {len(problems)} problems")
    return bool(problems) or count == 0


if __name__ == "__main__":
    sys.exit(main())
