"""`mergery doctor`: what this machine has, what is missing, and what that costs."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path

import pytest

from mergery.report import machine
from tests.cli.test_startup import loaded


def found(what: str) -> machine.Found:
    return next(each for each in machine.look_around() if each.what == what)


def test_it_is_quick_and_loads_nothing_heavy():
    assert loaded("from mergery.report.machine import look_around; look_around()") <= {"numpy"}


def test_it_says_what_is_here(mergery):
    outcome = mergery("doctor")
    assert outcome.code == 0
    for package in ("torch", "numba", "transformers", "peft"):
        assert version(package) in outcome.out
    for what in ("BLAS", "cores", "memory", "disk", "kernel cache", "hub"):
        assert what in outcome.out
    facts = {each["what"]: each for each in json.loads(mergery("doctor", "--json").out)}
    assert facts["torch"]["found"].startswith(version("torch"))


def test_the_build_of_torch_is_what_torch_says():
    import torch

    assert machine.cuda_of_torch() == torch.version.cuda


@pytest.mark.parametrize("package", [*machine.PACKAGES, "torch"])
def test_what_is_missing_costs_something_and_can_be_had(monkeypatch, package):
    real = machine.installed
    monkeypatch.setattr(machine, "installed", lambda name: None if name == package else real(name))
    missing = found(package)
    assert missing.costs
    assert missing.hint == f"pip install {package}"


def test_slow_kernels(monkeypatch):
    monkeypatch.setattr(machine, "choice", lambda: "readable")
    assert found("numba").hint == "unset MERGERY_KERNELS"
    monkeypatch.setattr(machine, "installed", lambda name: None)
    assert found("numba").hint == "pip install numba"
    assert "eight times" in found("numba").costs


def test_a_share_of_the_processor(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    monkeypatch.setattr(machine, "processor_share", lambda: 2.0)
    assert found("cores").hint == "say --threads 2"


def test_gpus_that_torch_cannot_use(monkeypatch, tmp_path):
    (tmp_path / "0000:01:00.0").mkdir()
    monkeypatch.setattr(machine, "GPUS", tmp_path)
    monkeypatch.setattr(machine, "cuda_of_torch", lambda: None)
    assert "processors alone" in found("GPUs").found
    monkeypatch.setattr(machine, "cuda_of_torch", lambda: "13.0")
    assert not found("GPUs").costs


def test_places_that_cannot_be_written(monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert found("kernel cache").costs
    assert found("disk").costs


def test_the_hubs_token(monkeypatch, tmp_path):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert found("hub").hint == "run `hf auth login`"
    Path(tmp_path / "token").write_text("hf_x")
    assert not found("hub").costs
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "nothing is downloaded" in found("hub").costs
