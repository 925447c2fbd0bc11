"""Pages that are run: their blocks of code, one after the other, in a folder of tiny models.

A block of YAML, JSON, JSON lines or CSV with a `title` is written to the file of that name. A recipe that no command of the
page names is planned. What a shell block says to `mergery` is done; of other programs, it is checked that they are known.
Blocks of Python share their names, as in a notebook. Blocks of other languages, and those without one, are shown and not run.
"""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file

from mergery.recipe.reading import KEYS, load_recipe
from tests.conftest import Outcome, make_llama

ROOT = Path(__file__).parents[2]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)(?: +title=\"(?P<title>[^\"]+)\")? *\n(?P<text>.*?)^ *```", re.M | re.S
)
QUIZ = [
    {"question": f"Which word is number {n}?", "choices": [f"w{n}", f"w{n + 40}"], "answer": n % 2, "category": topic}
    for n in range(16)
    for topic in [("order", "names")[n % 2]]
]
Run = Callable[..., Outcome]


@dataclass(frozen=True)
class Block:
    """A block of code on a page."""

    language: str
    title: str | None
    text: str
    line: int


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    """The blocks of a page, or of a part of one."""
    found = []
    for match in FENCE.finditer(text):
        indent, body = match["indent"], match["text"]
        lines = [line.removeprefix(indent) for line in body.splitlines(keepends=True)]
        found.append(Block(match["language"], match["title"], "".join(lines), text[: match.start()].count("\n") + 1))
    return found


def sections(text: str) -> dict[str, str]:
    """The parts of a page under its headings of the second rank."""
    parts = re.split(r"^## +(.+)$", text, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def furnish(folder: Path, llamas: Path) -> Path:
    """The models and files that the pages speak of."""
    for name, source in (("llama", "base"), ("llama-math", "a"), ("llama-code", "b"), ("llama-law", "c")):
        shutil.copytree(llamas / source, folder / name)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        for other in ("llama-code", "llama-law"):
            shutil.copy(folder / "llama" / name, folder / other)
    for step, source in ((500, "base"), (1000, "a"), (1500, "b")):
        (folder / "run").mkdir(exist_ok=True)
        (folder / f"run/checkpoint-{step}").symlink_to(llamas / source)
    for name, source in (("base", "llama"), ("sort", "llama-math"), ("swap", "llama-code")):
        shutil.copytree(folder / source, folder / "demo/models" / name)
    more_words(folder / "llama-math", folder / "llama-chat")
    make_llama(folder / "llama-2", 7)
    for seed, name in enumerate(("math-lora", "code-lora", "law-lora")):
        adapter(folder / name, seed)
    (folder / "quiz.jsonl").write_text("".join(json.dumps(item) + "\n" for item in QUIZ))
    (folder / "facts.jsonl").write_text("".join(json.dumps({"text": f"w{n} w{n + 1} w3"}) + "\n" for n in range(16)))
    (folder / "mergekit.yml").write_text(
        "merge_method: ties\nbase_model: ./llama\ndtype: float32\nmodels:\n"
        "  - model: ./llama-math\n    parameters: {weight: 0.5, density: 0.5}\n"
        "  - model: ./llama-code\n    parameters: {weight: 0.5, density: 0.5}\n"
    )
    return folder


def adapter(out: Path, seed: int, rank: int = 4) -> None:
    """An adapter of peft on the query and value projections of `llama`."""
    torch.manual_seed(seed)
    factors = {}
    for layer, (projection, width) in itertools.product(range(4), (("q_proj", 32), ("v_proj", 16))):
        module = f"base_model.model.model.layers.{layer}.self_attn.{projection}"
        factors |= {
            f"{module}.lora_A.weight": torch.randn(rank, 32),
            f"{module}.lora_B.weight": torch.randn(width, rank),
        }
    out.mkdir()
    save_file(factors, out / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": ["q_proj", "v_proj"]}
    (out / "adapter_config.json").write_text(json.dumps(said))


def more_words(source: Path, out: Path) -> None:
    """A model with two tokens that its source lacks, among them the marks of a chat."""
    shutil.copytree(source, out)
    tensors = load_file(out / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], tensors[name][:2] * 0.5])
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] + 2}))
    tokenizer = json.loads((out / "tokenizer.json").read_text())
    size = len(tokenizer["model"]["vocab"])
    for place, word in enumerate(("<|im_start|>", "<|im_end|>")):
        tokenizer["added_tokens"].append(
            {"id": size + place, "content": word, "single_word": False, "lstrip": False, "rstrip": False,
             "normalized": False, "special": True}
        )  # fmt: skip
    (out / "tokenizer.json").write_text(json.dumps(tokenizer))


def other_shape(folder: Path, name: str, **changes: object) -> Path:
    """A tiny model of another shape."""
    return make_llama(folder / name, 7, **changes)


def run(found: Sequence[Block], home: Path, mergery: Run, names: dict[str, Any] | None = None) -> list[str]:
    """Run blocks in the folder `home`, which is where the process stands. Answers with the commands that were run."""
    ran: list[str] = []
    commands = " ".join(block.text for block in found if block.language == "bash")
    names = {} if names is None else names
    for block in found:
        where = f"the block in line {block.line}"
        if block.language in ("yaml", "json", "jsonl", "csv"):
            if block.title:
                (home / block.title).parent.mkdir(parents=True, exist_ok=True)
                (home / block.title).write_text(block.text)
            if block.language == "yaml" and not (block.title and block.title in commands):
                check_recipe(block, home, mergery, where)
        elif block.language == "bash":
            for line in block.text.splitlines():
                ran += [line] if do(shlex.split(line, comments=True), mergery, where) else []
        elif block.language == "python":
            exec(compile(block.text, where, "exec"), names)
    return ran


def check_recipe(block: Block, home: Path, mergery: Run, where: str) -> None:
    """A recipe can be planned; a part of one can be read."""
    data = yaml.safe_load(block.text)
    if {"models", "merge"} <= set(data) or "merge_method" in data:
        path = home / (block.title or f"line-{block.line}.yaml")
        path.write_text(block.text)
        outcome = mergery("plan", path)
        assert outcome.code == 0, (where, outcome.err)
        return
    load_recipe(completed(data))


def completed(data: dict[str, Any]) -> dict[str, Any]:
    """A recipe around a part of one."""
    top = {key: data[key] for key in KEYS if key in data}
    top.pop("merge", None)
    own = {key: value for key, value in data.items() if key not in (*top, "merge")} | data.get("merge", {})
    models = {"models": top.get("models") or {name: f"./{name}" for name in ("base", "math", "code")}}
    based = {"base": "base"} if "base" in models["models"] else {}
    method = own.get("method") or ("slerp" if "t" in own else "ties" if based else "linear")
    merge = {"method": method, **(based if method not in ("slerp", "linear") else {}), **own}
    if method == "slerp":
        merge["models"] = [name for name in models["models"] if name != "base"][:2]
    return {**top, **models, "merge": merge}


def do(words: list[str], mergery: Run, where: str) -> bool:
    """Do what a line of a shell block says; whether it was for `mergery`."""
    if not words:
        return False
    if words[0] == "mergery":
        outcome = mergery(*words[1:])
        assert outcome.code == 0, (where, words, outcome.err or outcome.out)
        return True
    if words[0] == "make":
        targets = [word for word in words[1:] if "=" not in word]
        dry = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True)
        assert dry.returncode == 0, (where, dry.stderr)
    for extra in re.findall(r"mergery\[([\w,]+)\]", " ".join(words)):
        known = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
        assert set(extra.split(",")) <= set(known), (where, extra)
    assert words[0] in KNOWN, (where, words)
    return False


KNOWN = {"cd", "docker", "export", "git", "hf", "make", "pip", "python", "python3", "source", "uv", "uvx"}
"""Programs of the system that pages name and tests do not run."""


def pages() -> Iterator[str]:
    """All pages whose blocks are run, from the root of the repository."""
    for path in sorted((ROOT / "docs").rglob("*.md")):
        yield path.relative_to(ROOT).as_posix()
