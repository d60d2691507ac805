"""A directive that shows every picture of the site, each with a link to the page that explains it.

    ```{gallery}
    ```

The pictures are those of the `figure-script` directives of all pages, in the order of the pages.
"""

from pathlib import Path

from computed import ComputedDirective
from docutils import nodes
from pictures import pictures


class Gallery(ComputedDirective):
    def run(self):
        gallery = nodes.container(classes=["gallery"])
        for name, (page, alt, text) in pictures(Path(self.env.srcdir)).items():
            link = nodes.reference(
                "", "", refuri=self.env.app.builder.get_relative_uri(self.env.docname, page)
            )
            link += self.images(name, alt)[0]
            children, _ = self.state.inline_text(text, self.lineno)
            link += nodes.inline("", "", *children)
            card = nodes.container("", nodes.paragraph("", "", link), classes=["picture"])
            gallery += card
        return [gallery]


def setup(app):
    app.add_directive("gallery", Gallery)
    return {"parallel_read_safe": False, "version": "1"}
