"""``python -m bench.bridges`` compares the bridges with their hosts: results/bridges.md.

It runs, one after another, ``bench.objectives``, ``bench.torch_bridge``, ``bench.jax_bridge``,
``bench.linear`` and ``bench.evaluation``, and keeps what they print. All optional packages have to
be installed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping

from bench import RESULTS, machine
from bench.threads import available_cpus, hold_to
from bench.timing import Budget, Run, least

OUTPUT = RESULTS / "bridges.md"
COMMANDS = {
    "bench.objectives": "Boosting objectives",
    "bench.torch_bridge": "torch",
    "bench.jax_bridge": "JAX",
    "bench.linear": "A linear layer",
    "bench.evaluation": "Evaluation",
}

# A row's first cells, the runs by name (the first calls have been made), and the last cell.
Case = tuple[list[str], Mapping[str, Run], str]


def compare_on_each(
    module: str, header: str, names: Iterable[str], cases: Callable[[int], Iterable[Case]]
) -> None:
    """Time runs in turns, and print a table for each number of threads, each in its own process.

    The numbers come from the command line; the default is one, and all processors. ``cases`` is
    called in a process that is held to its threads; it imports the modules that start threads.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module}")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, len(available_cpus())])
    counts = parser.parse_args().threads
    if len(counts) > 1:
        for threads in counts:
            command = [sys.executable, "-m", module, "--threads", str(threads)]
            subprocess.run(command, check=True)
        return
    hold_to(counts[0])
    print(f"\n{counts[0]} thread{'s' * (counts[0] > 1)}; in brackets, relative to fastce\n")
    print(header, flush=True)
    for label, runs, difference in cases(counts[0]):
        best = least(runs, Budget(4.0, 4))
        cells = [
            f"{1e3 * best[name]:.3f} ms ({best[name] / best['fastce']:.1f})"
            if name in best
            else "-"
            for name in names
        ]
        print(f"| {' | '.join([*label, *cells, difference])} |", flush=True)


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
