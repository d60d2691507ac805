"""``python -m bench.bridges`` compares the bridges with their hosts: results/bridges.md.

It runs, one after another, ``bench.objectives``, ``bench.torch_bridge``, ``bench.jax_bridge``,
``bench.linear`` and ``bench.evaluation``, and keeps what they print. All optional packages have to
be installed.
"""

from __future__ import annotations

import subprocess
import sys

from bench import RESULTS, machine

OUTPUT = RESULTS / "bridges.md"
COMMANDS = {
    "bench.objectives": "Boosting objectives",
    "bench.torch_bridge": "torch",
    "bench.jax_bridge": "JAX",
    "bench.linear": "A linear layer",
    "bench.evaluation": "Evaluation",
}


def main() -> None:
    facts = machine.facts([1, 2])
    parts = [f"# Bridges compared with their hosts\n\n{machine.as_markdown(facts)}"]
    for command, title in COMMANDS.items():
        print(f"python -m {command}", file=sys.stderr, flush=True)
        done = subprocess.run(
            [sys.executable, "-m", command], stdout=subprocess.PIPE, text=True, check=True
        )
        printed = done.stdout.strip()
        is_markdown = "|---" in printed
        parts.append(f"## {title}\n\n`python -m {command}`:")
        parts.append(printed if is_markdown else f"```\n{printed}\n```")
    OUTPUT.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
