"""The same bits from every compiler: none may fuse, reorder or split operations."""

from __future__ import annotations

import platform
import sys

import golden
import pytest

RECORDED = golden.recorded()

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64",
    reason="the bits are recorded for Linux on x86-64",
)


def test_bits_are_those_recorded(isa):
    computed, recorded = golden.digests(), RECORDED[golden.COLUMN[isa]]
    assert set(computed) == set(recorded), "python tools/golden_bits.py records them anew"
    other = [name for name, value in computed.items() if recorded[name] != value]
    assert not other, f"{len(other)} of {len(computed)} have other bits: {other[:10]}"
