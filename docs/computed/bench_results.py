"""The results of the benchmark's last full run, which are in the checkout."""

import json
from pathlib import Path

PATH = Path(__file__).parent.parent.parent / "bench" / "results" / "results.json"

if not PATH.exists():
    raise FileNotFoundError(
        f"{PATH} is missing, which docs/performance.md is made from: `make bench` writes it"
    )
RESULTS = json.loads(PATH.read_text("utf-8"))

# One colour and one marker for each subject, readable on a light and on a dark page. The text's
# colour, which fits both, is JAX's.
LOOKS = {
    "fastce": ("#e0662b", "D"),
    "NumPy": ("#4a8fdb", "o"),
    "SciPy": ("#2f9e9e", "s"),
    "scikit-learn": ("#b8920a", "v"),
    "Numba": ("#3f9b4f", "^"),
    "torch": ("#d8608c", "P"),
    "torch.compile": ("#9670d0", "<"),
    "JAX": ("text", "X"),
}


def look(name):
    """Return the colour and the marker of a subject."""
    from matplotlib import pyplot

    color, marker = LOOKS[name]
    color = pyplot.rcParams["text.color"] if color == "text" else color
    return {"color": color, "marker": marker}
