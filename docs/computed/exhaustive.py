from accuracy_results import RESULTS

COLUMNS = ["function", "range", "numbers", "variant", "worst ULP", "wrong"]


def table():
    text = (RESULTS / "exhaustive.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    header, _, *results = rows
    picked = [header.index(column) for column in COLUMNS]
    lines = [[row[i] for i in picked] for row in [header, *results]]
    lines.insert(1, ["---", "---", "--:", "---", "--:", "--:"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
