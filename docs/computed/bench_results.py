"""The results of the benchmark's last full run, which stand in the checkout."""

import json
from pathlib import Path

PATH = Path(__file__).parent.parent.parent / "bench" / "results" / "results.json"
RESULTS = json.loads(PATH.read_text("utf-8"))
