"""What is freed goes back to the system."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from mergery.kernels import memory

PROGRAM = """
    import numpy as np
    from mergery.kernels.memory import return_large_blocks

    def resident():
        return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6

    return_large_blocks()
    np.ones(1 << 22)  # 32 MB, freed at once: glibc would keep blocks of that size from now on
    before, pins = resident(), []
    large = []
    for _ in range(20):
        large.append(np.ones(3 << 20))  # 24 MB
        pins.append(np.ones(1 << 12))
    held = resident()
    del large
    print(held - before, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_large_blocks_go_back_although_small_ones_stay():
    made = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM)], capture_output=True, text=True, check=True
    ).stdout
    held, left = map(float, made.split())
    assert held > 450.0 and left < 20.0


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(memory, "_mallopt", lambda: None)
    memory.return_large_blocks.__wrapped__()
