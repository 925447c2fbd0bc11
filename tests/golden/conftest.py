"""The models of the golden merges, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.golden.models import make


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("golden"))
