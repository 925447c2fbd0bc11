"""A folder as the pages imagine it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.docs.pages import furnish


@pytest.fixture
def home(tmp_path: Path, llamas: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, and the process in it; on one core, for models this small gain nothing from more."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    monkeypatch.chdir(furnish(tmp_path, llamas))
    return tmp_path
