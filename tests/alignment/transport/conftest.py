"""A target, texts, and a way to transport models into it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mergery.alignment.transport.options import TransportOptions
from mergery.alignment.transport.running import transport
from tests.alignment.transport.planted import save, small, write_texts


@pytest.fixture(autouse=True)
def one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run beside one another: each takes one thread where it would take one for each core."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(small(), tmp_path_factory.mktemp("target"))


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_texts(tmp_path_factory.mktemp("texts") / "texts.txt")


@pytest.fixture
def move(tmp_path: Path, target: Path, texts: Path) -> Callable[..., Path]:
    """Transport a model, or a folder, into the target: `move(model, alpha=1.0, neurons=0)` gives the output's folder."""
    count = 0

    def run(source: Any, *, into: Path = target, alpha: float = 1.0, since: Any = None, **options: Any) -> Path:
        nonlocal count
        count += 1
        folder = source if isinstance(source, Path) else save(source, tmp_path / f"source-{count}")
        out = tmp_path / f"out-{count}"
        usual = {"modules": ("attention", "mlp"), "neurons": 0, "epsilon": 0.01, "longest": 24, "iterations": 400}
        transport(folder, into, texts, out, alpha=alpha, since=since, options=TransportOptions(**{**usual, **options}))
        return out

    return run
