"""The results of the benchmark's last full run, which stand in the checkout."""

import json
from pathlib import Path

PATH = Path(__file__).parent.parent.parent / "bench" / "results" / "results.json"

if not PATH.exists():
    raise FileNotFoundError(
        f"{PATH} is missing, which docs/performance.md is made from: `make bench` writes it"
    )
RESULTS = json.loads(PATH.read_text("utf-8"))
