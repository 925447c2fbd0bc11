"""The demo runs from end to end, in miniature."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]


def test_the_demo_trains_merges_scores_draws_and_generates(tmp_path):
    command = [sys.executable, "-W", "error", "-m", "demo", "--quick", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("base", "sort expert", "climb expert", "linear", "ties"):
        assert name in done.stdout
    assert (tmp_path / "merged.png").stat().st_size > 10_000
    merged, base = (load_file(tmp_path / part / "model.safetensors") for part in ("merged/ties", "models/base"))
    assert merged.keys() == base.keys()
    (told,) = (line.split()[1:] for line in done.stdout.splitlines() if line.strip().startswith("Next:"))
    following = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert following.returncode == 0, following.stderr
    assert "peak memory" in following.stdout
