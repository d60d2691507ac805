"""The files that a computed figure or table depends on."""

import re


def sources(script):
    """Return the files that a script depends on: itself, its imports from docs, results."""
    text, found = script.read_text("utf-8"), {script}
    for name in re.findall(r"^from (\w+) import ", text, re.M):
        if (neighbour := script.with_name(f"{name}.py")).exists():
            found |= sources(neighbour)
    if '/ "bench" / "results"' in text:
        found.update(script.parents[2].glob("bench/results/*.*"))
    return found
