"""The commonest mistakes, each with the files and the command that make it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.golden.models import facts, read_tensors, weights, write_model, write_tensors

ROWS = 12
MODELS = "models: {base: ./base, a: ./a}\n"
TIES = MODELS + "merge: {method: ties, base: base, density: 0.5}\n"
PLAN, MERGE = "plan {folder}/recipe.yaml", "merge {folder}/recipe.yaml {folder}/out --quiet"
NAME = "model.layers.1.mlp.up_proj.weight"


class Mistake(NamedTuple):
    """A recipe, what happens to the folder of two models beside it, and the command."""

    recipe: str = TIES
    damage: Callable[[Path], object] = lambda folder: None
    command: str = PLAN

    def prepare(self, folder: Path) -> list[str]:
        """Write all files, and return the command's arguments."""
        for name in ("base", "a"):
            write_model(folder / name, weights("llama", 2, name, ROWS), facts("llama", 2, vocab_size=ROWS))
        (folder / "recipe.yaml").write_text(self.recipe)
        self.damage(folder)
        return [word.replace("{folder}", str(folder)) for word in self.command.split(" ")]


def changed(folder: Path, name: str, rows: int | None) -> None:
    """Write the model `a` with fewer rows of a tensor, or without it."""
    tensors = weights("llama", 2, "a", ROWS)
    whole = tensors.pop(name)
    write_tensors(folder / "a" / "model.safetensors", tensors if rows is None else tensors | {name: whole[:rows]})


def nan(folder: Path) -> None:
    tensors = weights("llama", 2, "a", ROWS)
    tensors[NAME][3, 4] = float("nan")
    write_tensors(folder / "a" / "model.safetensors", tensors)


def lose_shard(folder: Path) -> None:
    """Shards in name only: the index speaks of two, of which one is there."""
    one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    whole = (folder / "a" / "model.safetensors").rename(folder / "a" / one)
    places = dict.fromkeys(read_tensors(whole.parent), one) | {"lm_head.weight": two}
    (folder / "a" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def truncate(folder: Path) -> None:
    path = folder / "a" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def stranger(folder: Path) -> None:
    (folder / "a" / "config.json").write_text(json.dumps(facts("mistral", 2, vocab_size=ROWS)))


def quantised(folder: Path) -> None:
    config = facts("llama", 2, vocab_size=ROWS, quantization_config={"quant_method": "gptq"})
    (folder / "a" / "config.json").write_text(json.dumps(config))
    tensors = weights("llama", 2, "a", ROWS)
    matrices = {name: values for name, values in tensors.items() if name.endswith("proj.weight")}
    for name, values in matrices.items():
        stem = name.removesuffix("weight")
        tensors |= {f"{stem}qweight": values[::8], f"{stem}qzeros": values[:1, ::8], f"{stem}scales": values[:1]}
        del tensors[name]
    write_tensors(folder / "a" / "model.safetensors", tensors)


def adapter(folder: Path) -> None:
    shutil.rmtree(folder / "a")
    (folder / "a").mkdir()
    said = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "base_model_name_or_path": "org/base",
        "target_modules": ["q_proj"],
    }
    (folder / "a" / "adapter_config.json").write_text(json.dumps(said))
    stem, whole = "base_model.model.model.layers.0.self_attn.q_proj", weights("llama", 2, "a", ROWS)[NAME]
    factors = {f"{stem}.lora_A.weight": whole[:4], f"{stem}.lora_B.weight": whole[:, :4]}
    write_tensors(folder / "a" / "adapter_model.safetensors", factors)


def occupied(folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "notes.txt").write_text("keep me")


def merge(text: str) -> Mistake:
    """A recipe of both models with another merge."""
    return Mistake(MODELS + f"merge: {{{text}}}\n")


MISTAKES = {
    "no recipe": Mistake(damage=lambda folder: (folder / "recipe.yaml").unlink()),
    "a folder for a recipe": Mistake(command="plan {folder}/base"),
    "an empty recipe": Mistake("# nothing yet\n"),
    "no models": Mistake("merge: {method: linear}\n"),
    "no merge": Mistake(MODELS),
    "no method": merge("base: base"),
    "unknown method": merge("method: tise, base: base"),
    "unknown setting": merge("method: ties, base: base, densty: 0.5"),
    "unknown model": merge("method: linear, models: [base, math]"),
    "unknown model in a weight": merge("method: linear, weight: {base: 1, aa: 2}"),
    "unknown base": merge("method: ties, base: basis"),
    "no base": merge("method: ties"),
    "a model that is not used": merge("method: linear, models: [a]"),
    "three for two": Mistake(
        "models: {base: ./base, a: ./a, b: ./a}\nmerge: {method: slerp, models: [base, a, b], t: 0.5}\n"
    ),
    "density of 20": merge("method: ties, base: base, density: 20"),
    "a word for a weight": merge("method: linear, weight: heavy"),
    "a negative weight": merge("method: swudi, base: base, weight: -1"),
    "weights that cancel": merge("method: linear, weight: {base: 1, a: -1}"),
    "a gradient in place of a seed": Mistake(TIES + "seed: [0, 1]\n"),
    "a gradient of gradients": merge("method: slerp, t: [[0, 1], 0.5]"),
    "a gradient of what is one for the model": merge("method: ties, base: base, density: [0.1, 0.5]"),
    "an empty gradient": merge("method: slerp, t: []"),
    "unknown role": merge("method: slerp, t: [{where: {role: atention}, value: 0.5}, {value: 0.1}]"),
    "no value for some tensors": merge("method: nearswap, base: base, t: [{where: {layers: 0-1}, value: 0.5}]"),
    "a key twice": Mistake(MODELS + "merge:\n  method: ties\n  base: base\n  method: linear\n"),
    "a tab": Mistake("models:\n\tbase: ./base\n\ta: ./a\nmerge: {method: linear}\n"),
    "unknown section": Mistake(TIES + "dtype: bfloat16\n"),
    "unknown dtype": Mistake(TIES + "output: {dtype: bfloat}\n"),
    "a seed that is no number": Mistake(TIES + "seed: lucky\n"),
    "several at once": Mistake("models: {base: ./base, a: ./a}\nmerge: {method: ties, base: b, density: 7}\nsed: 1\n"),
    "no folder": Mistake(TIES.replace("./a}", "./aa}")),
    "a file that holds no weights": Mistake(TIES.replace("./a}", "./a/config.json}")),
    "a folder without weights": Mistake(damage=lambda folder: (folder / "a" / "model.safetensors").unlink()),
    "no shard": Mistake(damage=lose_shard),
    "other shapes": Mistake(damage=lambda folder: changed(folder, NAME, 16)),
    "other vocabularies": Mistake(damage=lambda folder: changed(folder, "model.embed_tokens.weight", 10)),
    "no tensor": Mistake(damage=lambda folder: changed(folder, NAME, None)),
    "a truncated file": Mistake(damage=truncate),
    "another family": Mistake(damage=stranger),
    "quantised": Mistake(damage=quantised),
    "an adapter": Mistake(damage=adapter),
    "layers that are not there": Mistake("models: {a: ./a}\nmerge: {stack: [{models: {a: 0-9}}]}\n"),
    "not a number": Mistake(damage=nan, command=MERGE),
    "an output that is not empty": Mistake(damage=occupied, command=MERGE),
    "an output that is an input": Mistake(command="merge {folder}/recipe.yaml {folder}/a --quiet --replace"),
    "an output in an input": Mistake(
        damage=lambda folder: (folder / "a" / "out").mkdir(),
        command="merge {folder}/recipe.yaml {folder}/a/out --quiet",
    ),
    "packing what cannot be": Mistake(command="pack {folder}/recipe.yaml {folder}/out"),
    "unknown option": Mistake(command=PLAN + " --fast"),
    "unknown command": Mistake(command="mrege {folder}/recipe.yaml"),
    "no argument": Mistake(command="merge"),
    "an odd chunk": Mistake(command=MERGE + " --chunk 1000"),
}
