"""Where the arithmetic is done. The code for GPUs also runs on the processor's torch, as the device `torch`."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from mergery import api
from mergery.errors import MergeryError, PlanError, RecipeError
from mergery.kernels import BLOCK, devices
from mergery.kernels.device import DeviceKernels
from mergery.kernels.devices import CPU, Device, TorchDevice, find_devices
from mergery.report.explain import explain
from mergery.run.merging import Result
from mergery.run.workers import Options
from tests.conftest import tensors_of, weights_of

no_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU HERE: merges on CUDA are NOT TESTED")
PLACES = [pytest.param("torch", id="torch"), pytest.param("cuda", id="cuda", marks=no_gpu)]
MERGES = {
    "linear": "merge: {method: linear, models: [a, b]}",
    "slerp": "merge: {method: slerp, models: [a, b], t: [0.2, 0.8]}",
    "slerp by row": "merge: {method: nuslerp, models: [a, b], scope: row}",
    "ties": "merge: {method: ties, base: base, density: 0.3}",
    "ties over the model": "merge: {method: ties, base: base, density: 0.3, scope: model}",
    "dare_ties": "merge: {method: dare_ties, base: base, density: 0.5, rescale: l1}",
    "della": "merge: {method: della, base: base, density: 0.5}",
    "sce": "merge: {method: sce, base: base}",
    "arcee_fusion": "merge: {method: arcee_fusion, base: base, models: [a]}",
    "ram": "merge: {method: ram, base: base}",
    "a stage": "merge: {method: slerp, models: [a, s], t: 0.5}",
}


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """Give even small tensors to the device, in several slices."""
    monkeypatch.setattr(DeviceKernels.__init__, "__defaults__", (65536 * 4, 0))


def text_of(name: str) -> str:
    models = {letter: f"{{llamas}}/{letter}" for letter in ("ab" if "models: [a, b]" in MERGES[name] else "a")}
    models |= {} if "models: [" in MERGES[name] else {"b": "{llamas}/b"}
    if "base" in MERGES[name] or name == "a stage":
        models["base"] = "{llamas}/base"
    if name == "a stage":
        models |= {
            "b": "{llamas}/b",
            "s": {"method": "dare_linear", "base": "base", "models": ["a", "b"], "density": 0.5},
        }
    return f"models: {json.dumps(models)}\n{MERGES[name]}\nseed: 3\n"


def some_gpus(monkeypatch: pytest.MonkeyPatch, *models: str) -> None:
    monkeypatch.setattr(devices, "list_gpus", lambda: {f"cuda:{n}": model for n, model in enumerate(models)})


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", MERGES)
def test_a_device_gives_the_processors_result(recipe, tmp_path, name, place):
    path = recipe(text_of(name))
    api.merge(path, tmp_path / "cpu")
    api.merge(path, tmp_path / "device", options=Options(device=place, threads=2))
    if place == "torch":
        assert weights_of(tmp_path / "device") == weights_of(tmp_path / "cpu")
    ours, theirs = tensors_of(tmp_path / "device"), tensors_of(tmp_path / "cpu")
    for tensor, value in ours.items():
        assert within_one_rounding(value.numpy(), theirs[tensor].numpy()), tensor


def within_one_rounding(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether float32 arrays differ by at most one unit in the last place."""
    return bool((np.abs(one - other) <= np.spacing(np.maximum(np.abs(one), np.abs(other)))).all())


@pytest.mark.parametrize("place", PLACES)
def test_dare_drops_the_same_entries(tmp_path, place):
    chance = torch.Generator().manual_seed(0)
    models = {name: {"w.weight": torch.randn(300, 500, generator=chance)} for name in ("base", "a")}
    recipe = {"models": models, "merge": {"method": "dare_linear", "base": "base", "density": 0.5}, "seed": 5}
    kept = []
    for options in (Options(), Options(device=place)):
        result = api.merge(recipe, options=options)
        assert isinstance(result, dict)
        kept.append(result["w.weight"] != models["base"]["w.weight"])
    assert torch.equal(*kept)
    assert 0.4 < kept[0].float().mean() < 0.6


@pytest.mark.parametrize("chunk", [65536, 1 << 18])
def test_windows_threads_and_slices_change_nothing(tmp_path, chunk):
    chance = torch.Generator().manual_seed(1)
    models = {name: {"w.weight": torch.randn(500, 700, generator=chance)} for name in ("base", "a", "b")}
    recipe = {"models": models, "merge": {"method": "ties", "base": "base", "density": 0.3}}
    whole = api.merge(recipe)
    made = api.merge(recipe, options=Options(device="torch", chunk=chunk, threads=3))
    assert isinstance(whole, dict) and isinstance(made, dict)
    assert torch.equal(whole["w.weight"], made["w.weight"])


def test_workers_are_dealt_to_devices_in_turn(recipe, monkeypatch):
    from mergery.run.sinks import MemorySink
    from mergery.run.workers import Run

    two = (TorchDevice("torch"), TorchDevice("torch:1"))
    monkeypatch.setattr("mergery.run.workers.find_devices", lambda asked: two)
    plan = api.plan(recipe(text_of("ties")))
    run = Run(plan, MemorySink(plan), Options(device="cuda", threads=4))
    assert [next(run.dealt) for _ in range(4)] == [*two, *two]
    run.execute()
    plan.close()


def test_a_gpu_keeps_several_workers(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(16)))
    some_gpus(monkeypatch, "A", "B")
    assert Options().workers == 16
    assert Options(device="cuda").workers == 8
    assert Options(device="cuda:1").workers == 4
    assert Options(device="cuda", threads=3).workers == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0})
    assert Options(device="cuda").workers == 2  # one for each


# --- which device -----------------------------------------------------------------------------------------------------


def test_words_for_devices(monkeypatch):
    assert find_devices("cpu") == (CPU,)
    some_gpus(monkeypatch)
    assert find_devices("auto") == (CPU,)
    some_gpus(monkeypatch, "NVIDIA H100", "NVIDIA A100")
    both = (TorchDevice("cuda:0"), TorchDevice("cuda:1"))
    assert find_devices("auto") == find_devices("cuda") == both
    assert find_devices("cuda:1") == both[1:]
    assert {device.kind for device in both} == {"cuda"} != {CPU.kind}


@pytest.mark.parametrize("word", ["gpu", "cuda:", "cuda:x", "cuda:-1", "CUDA", "cuda:²", ""])
def test_another_word_is_refused(word, mergery, recipe, tmp_path):
    with pytest.raises(RecipeError, match="unknown device"):
        find_devices(word)
    outcome = mergery("merge", recipe(text_of("linear")), tmp_path / "out", "--device", word or "''")
    assert outcome.code == 2
    assert "try: known here: cpu, cuda, cuda:0, cuda:1, ..., or auto" in outcome.err


@pytest.mark.parametrize("command", ["merge", "plan"])
def test_a_device_that_is_not_there_is_told_with_those_that_are(mergery, recipe, tmp_path, monkeypatch, command):
    some_gpus(monkeypatch, "NVIDIA H100", "NVIDIA A100")
    outcome = mergery(command, recipe(text_of("linear")), tmp_path / "out", "--device", "cuda:2")
    assert outcome.code == 2
    assert "mergery: there is no device 'cuda:2'" in outcome.err
    assert "why: torch finds cuda:0 (NVIDIA H100), cuda:1 (NVIDIA A100)" in outcome.err
    assert "try: --device one of cuda:0, cuda:1" in outcome.err
    assert not list(tmp_path.glob("out*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_error_says_why(mergery, recipe, tmp_path):
    outcome = mergery("merge", recipe(text_of("linear")), tmp_path / "out", "--device", "cuda")
    assert outcome.code == 2
    assert "why: torch finds only cpu" in outcome.err
    assert "try: --device cpu, or auto" in outcome.err


def test_the_processor_needs_no_torch_to_be_found():
    import subprocess
    import sys

    code = "import sys, mergery.kernels.devices as d; d.find_devices('cpu'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_cluster_computes_on_processors(recipe, tmp_path):
    with pytest.raises(PlanError, match="the workers of a cluster compute on cpu, not on torch"):
        api.merge(recipe(text_of("linear")), tmp_path / "out", options=Options(device="torch"), ray="auto")


def test_a_full_gpu_is_told(recipe, tmp_path):
    def full(*arguments: object) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")

    path, out, options = recipe(text_of("linear")), tmp_path / "out", Options(device="torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mergery.kernels.readable.mix", full)
        with pytest.raises(PlanError, match=r"the memory of the GPU is full\n  why: CUDA out of memory") as caught:
            api.merge(path, out, options=options)
    assert "fewer --threads" in str(caught.value)
    assert isinstance(api.merge(path, out, options=options), Result)


# --- what is recorded -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("cpu", "torch"), ("torch", "cpu")])
def test_a_run_goes_on_only_on_the_kind_of_device_that_it_began_on(recipe, tmp_path, first, second):
    path, out = recipe(text_of("dare_ties")), tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mergery.run.lock.make_lock", lambda *arguments: 1 / 0)  # when all tensors are made
        with pytest.raises(ZeroDivisionError):
            api.merge(path, out, options=Options(device=first))
    with pytest.raises(PlanError, match=f"computed on {first}, and this one would on {second}") as caught:
        api.merge(path, out, options=Options(device=second))
    assert "why: the two may differ by one rounding" in str(caught.value)
    assert f"try: say --device {first}" in str(caught.value)
    result = api.merge(path, out, options=Options(device=first))
    assert isinstance(result, Result)
    assert result.resumed == len(result.plan.steps)


def test_the_lock_names_the_device_and_verify_uses_it(recipe, tmp_path, monkeypatch):
    path = recipe(text_of("ties"))
    api.merge(path, tmp_path / "out", options=Options(device="torch"))
    record = json.loads((tmp_path / "out/mergery.lock.json").read_text())
    assert record["device"] == "torch"
    asked = []
    real = devices.find_devices
    monkeypatch.setattr("mergery.run.workers.find_devices", lambda word: (asked.append(word), real(word))[1])
    assert api.verify(tmp_path / "out", sample=2) == []
    assert set(asked) == {"torch"}
    api.merge(path, tmp_path / "cpu")
    assert json.loads((tmp_path / "cpu/mergery.lock.json").read_text())["device"] == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_tensors_of_a_gpu_are_made_again_on_one(recipe, tmp_path):
    api.merge(recipe(text_of("ties")), tmp_path / "out")
    lock = tmp_path / "out/mergery.lock.json"
    lock.write_text(json.dumps({**json.loads(lock.read_text()), "device": "cuda"}))
    assert api.verify(tmp_path / "out") == []
    with pytest.raises(MergeryError, match="there is no device 'cuda'"):
        api.verify(tmp_path / "out", sample=1)


def test_a_plan_tells_what_a_gpu_takes(recipe, mergery, monkeypatch):
    some_gpus(monkeypatch, "A", "B")
    path = recipe(text_of("ties"))
    plan = api.plan(path)
    facts = explain(plan, Options(threads=4))
    assert facts["devices"] == ["cpu"] and facts["device_memory"] == 0
    there = explain(plan, Options(threads=4, device="cuda"))
    assert there["devices"] == ["cuda:0", "cuda:1"]
    assert there["device_memory"] == 2 * TorchDevice("cuda:0").memory > 0
    assert there["peak_memory"] > facts["peak_memory"]
    plan.close()
    outcome = mergery("plan", path, "--device", "cuda")
    assert outcome.code == 0
    assert "on each GPU" in outcome.out
    assert "on each GPU" not in mergery("plan", path).out


def test_windows_are_megabytes_whatever_the_number_of_models():
    gpu = TorchDevice("cuda:0")
    assert gpu.window(1 << 18, 4) == 1 << 24
    assert gpu.window(1 << 18, 200) * 200 * 4 <= devices.WINDOW
    assert gpu.window(1 << 26, 4) == 1 << 26
    assert Device().window(1 << 18, 4) == 1 << 18
    assert Device().window(1 << 19, 200) == BLOCK
    assert Device().window(1000, 200) == 1000
