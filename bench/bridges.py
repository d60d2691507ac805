"""``python -m bench.bridges``: the bridges beside their hosts, written to results/bridges.md.

It runs, one after another, ``bench.objectives``, ``bench.torch_bridge``, ``bench.jax_bridge`` and
``bench.linear``, and keeps what they print. All optional packages have to be installed.
"""

from __future__ import annotations

import subprocess
import sys

from bench import RESULTS, machine

OUTPUT = RESULTS / "bridges.md"
COMMANDS = ("bench.objectives", "bench.torch_bridge", "bench.jax_bridge", "bench.linear")


def main() -> None:
    facts = machine.facts([1, 2])
    parts = [f"# Bridges beside their hosts\n\n{machine.as_markdown(facts)}"]
    for command in COMMANDS:
        print(f"python -m {command}", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", command], stdout=subprocess.PIPE, text=True, check=True
        )
        parts.append(f"## python -m {command}\n\n```\n{done.stdout.strip()}\n```")
    OUTPUT.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
