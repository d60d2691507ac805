"""A directive that shows every picture of the site, each with a link to the page that explains it.

    ```{gallery}
    ```

The pictures are those of the `figure-script` directives of all pages, in the order of the pages.
"""

import re
from pathlib import Path

from computed import draw
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

FIGURE = re.compile(
    r"^```\{figure-script\} (?P<name>\w+)\n:alt: (?P<alt>.*)\n\n(?P<caption>(?:.+\n)*?)```$", re.M
)
LINK = re.compile(r"\[([^]]+)\]\([^)]+\)")


def pictures(source):
    """Return {name: (page, alternative text, first sentence of the caption)}, the guide first."""
    found = {}
    pages = [page.relative_to(source) for page in source.glob("**/*.md")]
    for page in sorted(pages, key=lambda page: (page.parts[0] != "guide", page)):
        if page.parts[0] != "_build":
            for match in FIGURE.finditer((source / page).read_text("utf-8")):
                caption = LINK.sub(r"\1", " ".join(match["caption"].split()))
                sentence = re.match(r".*?\.(?= |$)", caption)
                text = sentence[0] if sentence else caption
                name = page.with_suffix("").as_posix()
                found.setdefault(match["name"], (name, match["alt"], text))
    return found


class Gallery(SphinxDirective):
    def run(self):
        source = Path(self.env.srcdir)
        folder = source / "_build" / "figures"
        folder.mkdir(parents=True, exist_ok=True)
        gallery = nodes.container(classes=["gallery"])
        for name, (page, alt, text) in pictures(source).items():
            script = source / "computed" / f"{name}.py"
            self.env.note_dependency(str(script))
            paths, _ = draw(script, folder)
            link = nodes.reference(
                "", "", refuri=self.env.app.builder.get_relative_uri(self.env.docname, page)
            )
            for theme, path in paths.items():
                uri = f"/{path.relative_to(source).as_posix()}"
                link += nodes.image(uri=uri, alt=alt, classes=[f"only-{theme}"])
            children, _ = self.state.inline_text(text, self.lineno)
            link += nodes.inline("", "", *children)
            card = nodes.container("", nodes.paragraph("", "", link), classes=["picture"])
            gallery += card
        return [gallery]


def setup(app):
    app.add_directive("gallery", Gallery)
    return {"parallel_read_safe": False, "version": "1"}
