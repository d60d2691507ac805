"""Tables of bench/results/accuracy.md and accuracy_rows.md, which are in the checkout."""

from pathlib import Path

RESULTS = Path(__file__).parent.parent.parent / "bench" / "results"


def section(title, file="accuracy.md"):
    """The text below a heading, up to the next one."""
    text = (RESULTS / file).read_text(encoding="utf-8")
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0].strip()
