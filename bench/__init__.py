"""Speed and accuracy of fastce beside its peers and beside the memory limit."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"  # of the last full runs
