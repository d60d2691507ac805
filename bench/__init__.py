"""Speed and accuracy of fastce compared with its peers and with the memory limit."""

from pathlib import Path

RESULTS = Path(__file__).parent / "results"  # of the last full runs
