"""GGUF files with damage that knows their structure."""

from __future__ import annotations

import random
import struct
from typing import Any

from tests.fuzz.damage import NAMES, NUMBERS, noise, sometimes

PLAIN = {0: 4, 1: 2, 30: 2}  # float32, float16, bfloat16: bytes of an element
TYPES = (0, 1, 2, 3, 6, 7, 8, 9, 10, 12, 14, 16, 20, 24, 27, 30, 39, 40, 99, -1)

MORE = (
    "llama.rope.scaling.type", "llama.expert_count", "general.alignment", "general.type", "llama.attention.head_count_kv",
    "llama.rope.scaling.factor", "split.count", "llama.attention.key_length", "llama.rope.dimension_count",
)  # fmt: skip


def _string(text: str) -> bytes:
    raw = text.encode("utf-8", "replace")
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    if isinstance(value, bool):
        return struct.pack("<I?", 7, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<IQ", 10, value & (1 << 64) - 1)
    inner = 8 if value and isinstance(value[0], str) else 6 if value and isinstance(value[0], float) else 5
    parts = b"".join(_string(each) if inner == 8 else struct.pack("<f" if inner == 6 else "<i", each) for each in value)
    return struct.pack("<IIQ", 9, inner, len(value)) + parts


def _settings() -> dict[str, Any]:
    return {
        "general.architecture": "llama", "llama.block_count": 1, "llama.embedding_length": 32, "llama.context_length": 64,
        "llama.feed_forward_length": 32, "llama.attention.head_count": 2, "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 1e4, "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["<unk>", "a", "b", "ab"],
        "tokenizer.ggml.scores": [0.0, -1.0, -2.0, 0.5], "tokenizer.ggml.token_type": [2, 1, 1, 1],
        "tokenizer.ggml.eos_token_id": 1, "tokenizer.chat_template": "{{ messages }}",
    }  # fmt: skip


def gguf_file(chance: random.Random) -> bytes:
    """A GGUF file with one kind of damage or another."""
    settings = _settings()
    tensors = [("token_embd.weight", [32, 8], 0), ("blk.0.attn_q.weight", [32, 32], 1), ("rope_freqs.weight", [8], 0)]
    kind = chance.randrange(12)
    match kind:
        case 0:
            return noise(chance)
        case 1:
            settings[chance.choice(list(settings))] = chance.choice(
                (-1, 0, 2**32, 2**63, "", "ü", 1e300 * 0, [], [1, 2], [2, 2], ["x"], [0.5] * 4, True)
            )
        case 2:
            del settings[chance.choice(list(settings))]
        case 3:
            settings[chance.choice(MORE)] = chance.choice(("yarn", "linear", 0, 3, 8, 2**40, 0.5, []))
        case 4:
            settings["general.architecture"] = chance.choice((*NAMES[:6], "mamba", "gemma3", "phi3", "qwen2moe"))
        case 5:
            tensors[1] = (chance.choice([*NAMES, "blk.0.attn_q.weight", "blk.9999999999.attn_q.weight"]), [32, 32], 1)
        case 6:
            tensors[1] = (
                "blk.0.attn_q.weight",
                [chance.choice(NUMBERS[:12]) for _ in range(chance.choice((0, 1, 2, 4, 8)))],
                1,
            )
        case 7:
            tensors[1] = ("blk.0.attn_q.weight", [256, 2], chance.choice(TYPES))
        case _:
            pass
    head = b"GGUF" + struct.pack("<IQQ", chance.choice((3, 3, 3, 3, 2, 1, 0x03000000)), len(tensors), len(settings))
    head += b"".join(_string(key) + _value(value) for key, value in settings.items())
    offset = 0
    for name, dimensions, type_ in tensors:
        sides = [
            int(each) & (1 << 64) - 1 if isinstance(each, (int, float)) and each == each else 0 for each in dimensions
        ]
        head += _string(name) + struct.pack("<I", len(sides)) + b"".join(struct.pack("<Q", each) for each in sides)
        place = offset if kind != 8 else chance.choice((0, 31, 32, 2**40, 2**63))
        head += struct.pack("<IQ", type_ & 0xFFFFFFFF, place)
        count = 1
        for each in sides:
            count *= each
        offset += -(-min(count * PLAIN.get(type_, 1), 1 << 12) // 32) * 32
    head += bytes(-len(head) % 32)
    data = b"\0\0\x80\x3f" * (offset // 4 + 64)
    if kind == 9:
        data = data[: chance.randrange(len(data))]
    if kind == 10:
        at = chance.randrange(len(head))
        head = head[:at] + noise(chance, 9) + head[at:]
    return sometimes(chance, head + data, 0.1)
