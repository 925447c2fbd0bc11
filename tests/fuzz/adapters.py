"""Hostile adapters on a small model, and importance matrices: configs that lie, factors that do not fit, files cut short."""

from __future__ import annotations

import json
import random
import struct
from typing import Any

from tests.fuzz.damage import as_json, damage, noise, sometimes, spoil
from tests.fuzz.folders import CONFIG
from tests.fuzz.weights import header, safetensors

EXPERT = {"gate_proj": [4, 8], "up_proj": [4, 8], "down_proj": [8, 4]}
BASE = {
    "model.embed_tokens.weight": ("F32", [4, 8]), "model.layers.0.self_attn.q_proj.weight": ("F32", [8, 8]),
    **{
        f"model.layers.0.mlp.experts.{number}.{word}.weight": ("F32", shape)
        for number in range(2) for word, shape in EXPERT.items()
    },
}  # fmt: skip
SAID: dict[str, Any] = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj"],
    "rank_pattern": {"experts.gate_up_proj": 1}, "alpha_pattern": {}, "use_dora": False, "use_rslora": False, "bias": "none",
    "fan_in_fan_out": False, "modules_to_save": None, "trainable_token_indices": None, "init_lora_weights": True,
    "base_model_name_or_path": None,
}  # fmt: skip
Q, EXPERTS = "base_model.model.model.layers.0.self_attn.q_proj", "base_model.model.model.layers.0.mlp.experts"
ODD = (
    ".lora_A", ".lora_magnitude_vector", ".lora_embedding_A", ".lora_mid.weight", ".alpha", ".lora_B.bias",
    ".token_adapter.trainable_tokens_delta", ".modules_to_save.weight", ".base_layer.lora_A.weight",
)  # fmt: skip
RECIPE = b"models: {a: ./x+./lora, base: ./x}\nmerge: {method: task_arithmetic, models: [a], base: base}\n"


def adapter(chance: random.Random) -> dict[str, bytes]:
    """A recipe that puts an adapter on a model, or makes one of it."""
    tensors = {
        f"{Q}.lora_A.weight": ("F32", [2, 8]), f"{Q}.lora_B.weight": ("F32", [8, 2]),
        f"{EXPERTS}.lora_A.weight": ("F32", [2, 8]), f"{EXPERTS}.lora_B.weight": ("F32", [8, 2]),
    }  # fmt: skip
    for _ in range(chance.randrange(3)):
        name = chance.choice(list(tensors))
        match chance.randrange(4):
            case 0:
                tensors[name] = (chance.choice(("F16", "I64", "U8", "F32")), tensors[name][1])
            case 1:
                tensors[name] = ("F32", [chance.choice((0, 1, 2, 3, 8, 16)) for _ in range(chance.randrange(4))])
            case 2:
                tensors[f"{name.partition('.lora')[0]}{chance.choice(ODD)}"] = tensors.pop(name)
            case _:
                tensors.pop(name)
                if not tensors:
                    break
    said = spoil(chance, SAID, chance.choice((0.0, 0.05, 0.3)))
    out = chance.choice((b"", b"output: {adapter: true}\n", b"output: {adapter: {rank: 1}}\n"))
    return {
        "recipe.yaml": RECIPE + out, "x/config.json": json.dumps(CONFIG).encode(), "x/model.safetensors": _file(BASE),
        "lora/adapter_config.json": sometimes(chance, as_json(chance, said), 0.1),
        "lora/adapter_model.safetensors": sometimes(chance, _file(tensors), 0.1),
    }  # fmt: skip


def _file(tensors: dict[str, tuple[str, list[int]]]) -> bytes:
    said, size = header(tensors)
    return safetensors(json.dumps(said).encode(), bytes(size))


def imatrix(chance: random.Random) -> dict[str, bytes]:
    """An importance matrix in llama.cpp's older format, with damage."""
    if chance.random() < 0.2:
        return {"x.dat": noise(chance)}
    entries = [(b"blk.0.attn_q.weight", chance.choice((1, 0, -1)), [1.0, 0.0, float("nan")][: chance.randrange(4)])]
    data = struct.pack("<i", chance.choice((1, 1, 2, 0, -1, 1 << 30)))
    for name, calls, values in entries:
        data += struct.pack("<i", len(name)) + name + struct.pack(f"<ii{len(values)}f", calls, len(values), *values)
    return {"x.dat": damage(chance, data) if chance.random() < 0.5 else data}
