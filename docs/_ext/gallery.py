"""A directive that shows every picture of the site, each with a link to the page that explains it.

    ```{gallery}
    ```

The pictures are those of the `figure-script` directives of all pages, in the order of the pages.
"""

from pathlib import Path

from computed import draw
from docutils import nodes
from pictures import pictures
from sphinx.util.docutils import SphinxDirective


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
