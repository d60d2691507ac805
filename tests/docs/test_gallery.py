"""The gallery has every picture of the site, with its page and a caption."""

from scripts import DOCS, load


def test_every_picture_is_in_the_gallery():
    found = load(DOCS / "_ext" / "pictures.py").pictures(DOCS)
    scripts = (DOCS / "computed").glob("*.py")
    drawn = {path.stem for path in scripts if "\ndef draw(" in path.read_text("utf-8")}
    assert found.keys() == drawn
    for page, alt, caption in found.values():
        assert (DOCS / f"{page}.md").is_file()
        assert len(alt) > 20
        assert caption.endswith(".")
        assert "](" not in caption


def test_a_picture_on_two_pages_is_shown_once_and_the_guide_explains_it(tmp_path):
    figure = "```{figure-script} curve\n:alt: what it shows\n\nA [curve](x.md). And more.\n```\n"
    (tmp_path / "guide").mkdir()
    for page in ("about.md", "guide/page.md"):
        (tmp_path / page).write_text(figure, "utf-8")
    found = load(DOCS / "_ext" / "pictures.py").pictures(tmp_path)
    assert found == {"curve": ("guide/page", "what it shows", "A curve.")}
