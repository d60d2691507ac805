"""``pytest bench --benchmark-only [--threads N]``: hold the process to its threads first of all."""

from __future__ import annotations

from typing import Any

import pytest

from bench.threads import available_cpus, hold_to

MODEST_SECONDS = "0.25"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--threads", type=int, default=1, help="threads of every subject in bench/ (default 1)"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    hold_to(min(config.getoption("--threads"), len(available_cpus())))
    # The package's own tests make every warning an error; the peers' warnings are not ours.
    config.addinivalue_line("filterwarnings", "default")
    # A hundred and more subjects: a second each, the plugin's default, is too long. A value given
    # on the command line stands.
    given = any(str(a).startswith("--benchmark-max-time") for a in config.invocation_params.args)
    if not given and hasattr(config.option, "benchmark_max_time"):
        from pytest_benchmark.utils import SecondsDecimal

        config.option.benchmark_max_time = SecondsDecimal(MODEST_SECONDS)


@pytest.fixture(scope="session")
def threads(request: pytest.FixtureRequest) -> int:
    return min(int(request.config.getoption("--threads")), len(available_cpus()))


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    from bench import machine

    machine_info["bench"] = machine.facts([config.getoption("--threads")])
