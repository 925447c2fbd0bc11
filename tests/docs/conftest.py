"""A folder as the pages imagine it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import furnish


@pytest.fixture
def home(tmp_path: Path, llamas: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, and the process in it."""
    monkeypatch.chdir(furnish(tmp_path, llamas))
    return tmp_path
