"""How long random searches go on: the same draws in each normal run, others in `make fuzz`."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

# tools/fuzz.py sets how many, and lets the search differ from run to run.
EXAMPLES = int(os.environ.get("FASTCE_FUZZ_EXAMPLES", "150"))
settings.register_profile(
    "fuzz",
    max_examples=EXAMPLES,
    derandomize="FASTCE_FUZZ_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=(
        Phase.explicit,
        Phase.generate,
    ),  # a failure names its arguments; shrinking takes minutes
)
FUZZ = settings.get_profile("fuzz")
