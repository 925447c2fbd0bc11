# ruff: noqa: E501 - tables of odd values
"""Folders of models, and what an unfinished merge leaves."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

from tests.fuzz.damage import as_json, junk, noise, sometimes, spoil
from tests.fuzz.tokenizers import tokenizer_files
from tests.fuzz.weights import header, index_files, safetensors, safetensors_file, tiny, torch_file

CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "hidden_size": 2, "vocab_size": 4,
    "tie_word_embeddings": False, "torch_dtype": "float32", "layer_types": ["full_attention", "full_attention"],
    "rope_scaling": {"factor": 2.0}, "eos_token_id": [1, 2], "quantization_config": None, "_name_or_path": "../../secret",
    "text_config": None, "mlp_only_layers": [0], "first_k_dense_replace": 1,
    "max_window_layers": 2,
}  # fmt: skip
SIDE = {
    "tokenizer.json": {"version": "1.0", "added_tokens": [{"id": 0, "content": "../../evil"}]},
    "tokenizer_config.json": {"chat_template": "{{ ''.__class__ }}", "tokenizer_class": "../evil", "auto_map": {"x": "../evil--y"}},
    "generation_config.json": {"eos_token_id": 1}, "special_tokens_map.json": {"eos_token": "</s>"},
}  # fmt: skip
ENTRIES = (  # names of files that a folder can hold
    "tokenizer.model", "modeling.py", "LICENSE", "a\nb.py", "-rf.py", "tokenizer..", "..tokenizer.py", "*.py", "mergery.lock.json",
    "additional_chat_templates/x.jinja", "additional_chat_templates/..jinja", "model.bin", "x\x1b[2J.tiktoken", "journal.jsonl",
    "README.md", "ü.py", "CON.py", "x.gguf", "optimizer.pt", "\\..\\evil.py", "adapter_model.bin", ".x.tmp", "x.safetensors",
)  # fmt: skip


def model(chance: random.Random, hostile: bool) -> dict[str, bytes]:
    """The files of a tiny model."""
    config: Any = {key: value for key, value in CONFIG.items() if chance.random() < 0.8}
    side: dict[str, Any] = dict(SIDE)
    files: dict[str, bytes] = {}
    if hostile:
        config = spoil(chance, config, chance.choice((0.02, 0.1, 0.3)))
        side = {name: spoil(chance, value, 0.1) for name, value in side.items()}
        for _ in range(chance.randrange(3)):
            files[chance.choice(ENTRIES)] = noise(chance, 20)
    else:
        config = CONFIG
    if hostile and chance.random() < 0.25:
        files |= index_files(chance)
    elif hostile and chance.random() < 0.3:
        files["model.safetensors"] = safetensors_file(chance)
    elif hostile and chance.random() < 0.1:
        files["pytorch_model.bin"] = torch_file(chance)
    else:
        entries, size = header(tiny(chance))
        values = b"".join(struct.pack("<f", chance.uniform(-1, 1)) for _ in range(size // 4))
        files["model.safetensors"] = safetensors(json.dumps(entries).encode(), values)
    files["config.json"] = as_json(chance, config) if hostile else json.dumps(config).encode()
    for name, value in side.items():
        files[name] = as_json(chance, value) if hostile else json.dumps(value).encode()
    return files


def folder(chance: random.Random) -> dict[str, bytes]:
    """Two models, one of which is hostile and gives names, config and tokenizer."""
    files = {f"a/{name}": content for name, content in model(chance, True).items()}
    files |= {f"b/{name}": content for name, content in model(chance, False).items()}
    stack = ", stack: [{models: {a: 0-1}}, {models: {a: 1}}]" if chance.random() < 0.3 else ""
    method = "passthrough" if stack else "linear"
    text = (
        f"models: {{a: ./a{'' if stack else ', b: ./b'}}}\nmerge: {{method: {method}{stack}}}\noutput: {{config: a}}\n"
    )
    return {**files, "recipe.yaml": text.encode()}


def merged(chance: random.Random) -> dict[str, bytes]:
    """Two sound models, and a hostile unfinished output of their merge."""
    files = {f"{name}/{file}": content for name in "ab" for file, content in model(chance, False).items()}
    files["recipe.yaml"] = b"models: {a: ./a, b: ./b}\nmerge: {method: linear}\noutput: {shard_size: 40}\n"
    lines = [junk(chance) for _ in range(chance.randrange(4))]
    if chance.random() < 0.7:  # the runner puts the plan's digest here
        facts = (
            {"facts": {"inputs": junk(chance)}}
            if chance.random() < 0.3
            else {"done": {"model.norm.weight": junk(chance)}}
        )
        lines = [{"digest": "DIGEST"}, facts, {"done": junk(chance)}, *lines][: chance.randrange(1, 5)]
    journal = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    files["out.partial/journal.jsonl"] = sometimes(chance, journal)
    if chance.random() < 0.5:
        files["out.partial/" + chance.choice((*ENTRIES, "model-00001-of-00004.safetensors"))] = noise(chance)
    return files


def tokenizer(chance: random.Random) -> dict[str, bytes]:
    """Two models with tokenizers, of which the first is hostile."""
    files: dict[str, bytes] = {}
    for name in ("a", "b"):
        own = model(chance, False)
        own = {file: content for file, content in own.items() if file in ("config.json", "model.safetensors")}
        own |= tokenizer_files(chance)
        files |= {f"{name}/{file}": content for file, content in own.items()}
    text = "models: {a: ./a, b: ./b}\nmerge: {method: linear}\noutput: {tokenizer: a}\n"
    return {**files, "recipe.yaml": text.encode()}
