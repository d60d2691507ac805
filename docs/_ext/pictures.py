"""The pictures of the site, as the `figure-script` directives of its pages name them."""

import re

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
