"""Tables of bench/results/accuracy.md, which stands in the checkout."""

from pathlib import Path

RESULTS = Path(__file__).parent.parent.parent / "bench" / "results"


def section(title):
    """What stands below a heading, up to the next one."""
    text = (RESULTS / "accuracy.md").read_text(encoding="utf-8")
    return text.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0].strip()
