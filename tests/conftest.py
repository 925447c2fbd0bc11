"""Small real models, made by transformers once for each session, and the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
settings.register_profile(  # a busy machine is no fault of what is tested; EXPLORE=1 tries other examples each time
    "any-machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="EXPLORE" not in os.environ,
)
settings.load_profile("any-machine")


@pytest.fixture(scope="session", autouse=True)
def _plans_are_sound() -> Iterator[None]:
    """Look at the nodes of every plan that a test makes in this process."""
    import mergery.planning.plan as planning
    from mergery.testing.graph import plan_faults

    made = planning.plan_recipe

    def checked(*arguments: Any) -> planning.Plan:
        plan = made(*arguments)
        assert not plan_faults(plan)
        return plan

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "plan_recipe", checked)
        yield


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def mergery(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run the command line in this process: `mergery("merge", recipe, out)`."""
    from mergery.cli import main

    monkeypatch.delenv("COLUMNS", raising=False)  # libraries set it

    def run(*arguments: object) -> Outcome:
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


def mergery_process(*arguments: object, **kwargs: object) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process of its own."""
    command = [sys.executable, "-m", "mergery", *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, **kwargs)  # type: ignore[call-overload]


HELD = """
import sys, time
from pathlib import Path
import mergery.run.workers as run
from mergery.cli import main
from mergery.run.sinks import FolderSink
gate, runs, finished = Path(sys.argv.pop(1)), [], FolderSink.finished
class Held(run.Run):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        runs.append(self)
def wait(self, *arguments):
    finished(self, *arguments)
    while not gate.exists() and not runs[0].stop.is_set():
        time.sleep(0.01)
run.BATCH_TENSORS, FolderSink.finished = 1, wait
import mergery.run.merging
mergery.run.merging.Run = Held
main(sys.argv[1:])
"""


def held_merge(gate: Path, *arguments: object, **streams: int) -> subprocess.Popen[str]:
    """`mergery merge` as a process whose workers wait behind their first tensors until the file `gate` is there.

    They end where they are told to stop. So what happens to a run in its middle does not depend on the machine's speed.
    """
    command = [sys.executable, "-c", HELD, str(gate), "merge", *(str(argument) for argument in arguments)]
    return subprocess.Popen(command, text=True, **streams)  # type: ignore[call-overload]


class Killed(BaseException):
    """Stands for the end of the process."""


def merge_killed(recipe: Path, out: Path, after: int = 3) -> None:
    """A merge that ends when so many tensors are made, as if it was killed."""
    from mergery import api
    from mergery.run.workers import Options, Run

    made: list[str] = []
    make = Run.make

    def make_some(self: Run, step: Any) -> str:
        if len(made) == after:
            raise Killed
        made.append(step.name)
        return make(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "make", make_some)
        with pytest.raises(Killed):
            api.merge(recipe, out, options=Options(threads=1))
    assert journalled(out.with_name(out.name + ".partial")) == after


def journalled(partial: Path) -> int:
    """How many tensors an unfinished folder's journal says are done."""
    journal = partial / "journal.jsonl"
    lines = journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []
    return sum(len(json.loads(line).get("done", {})) for line in lines)


def make_llama(folder: Path, seed: int, base: Path | None = None, dtype: str = "float32", **changes: object) -> Path:
    """A tiny Llama with continuous random weights; a fine-tune of `base` where one is given."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    generator = torch.Generator().manual_seed(seed)
    if base is None:
        settings = {
            "vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, **changes,
        }  # fmt: skip
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**settings))
    else:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.01)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base` and its fine-tunes `a`, `b`, `c`, in float32, with a tokenizer in `base` and `a`."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    root = tmp_path_factory.mktemp("llamas")
    make_llama(root / "base", 0)
    for seed, name in enumerate("abc", start=1):
        make_llama(root / name, seed, root / "base")
    vocabulary = {f"w{index}": index for index in range(127)} | {"<unk>": 127}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    for name in ("base", "a"):
        fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
        fast.chat_template = "{{ messages[0]['content'] }} " + name
        fast.save_pretrained(root / name)
    return root


@pytest.fixture
def recipe(tmp_path: Path, llamas: Path) -> Callable[[str], Path]:
    """Write a recipe whose models are `base`, `a`, `b`, `c`; `{llamas}` in the text is their folder."""

    def write(text: str, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text.replace("{llamas}", str(llamas)))
        return path

    return write


def tensors_of(folder: Path) -> dict[str, object]:
    """All tensors of a model folder, through the safetensors library."""
    from safetensors.torch import load_file

    tensors: dict[str, object] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors


def weights_of(folder: Path) -> dict[str, bytes]:
    """The bytes of a model folder's weight files."""
    return {file.name: file.read_bytes() for file in sorted(folder.glob("*.safetensors"))}
