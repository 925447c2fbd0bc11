"""Tiny models that are the same on any machine: numbers from a counter, files written byte by byte.

Neither torch nor the safetensors library has a part in them, so that no other version of either changes the inputs.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

WIDE, INNER, HEADS, KEYS, VOCABULARY = 32, 48, 4, 2, 2100  # embeddings are more than one block, and more than is sorted
SIZES = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}
LETTERS = "abcdefgh"


def numbers(shape: tuple[int, ...], *key: object) -> np.ndarray:
    """Float64 numbers in (-1, 1), most of them near 0: sums of two uniform ones."""
    count = math.prod(shape)
    text = "/".join(map(str, key)).encode()
    bits = np.random.Philox(key=int.from_bytes(hashlib.sha256(text).digest()[:16], "little")).random_raw(2 * count)
    uniform = (bits >> np.uint64(40)).astype(np.float64) * 2.0**-24
    return (uniform[:count] + uniform[count:] - 1.0).reshape(shape)


def stored(values: np.ndarray, dtype: str) -> bytes:
    """Numbers in the form of the file, rounded to nearest even."""
    single = values.astype(np.float32)
    if dtype != "BF16":
        return single.astype(SIZES[dtype]).tobytes()
    bits = single.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).tobytes()


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray], dtype: str = "F32") -> Path:
    """A safetensors file of one dtype."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, values in tensors.items():
        raw = stored(values, dtype)
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def read_tensors(folder: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """All tensors of a folder: dtype, shape and bytes by name."""
    found: dict[str, tuple[str, list[int], bytes]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        data = path.read_bytes()
        start = 8 + int.from_bytes(data[:8], "little")
        for name, info in json.loads(data[8:start]).items():
            if name != "__metadata__":
                first, last = (start + offset for offset in info["data_offsets"])
                found[name] = (info["dtype"], info["shape"], data[first:last])
    return found


def floats(dtype: str, shape: list[int], raw: bytes) -> np.ndarray:
    """The numbers of a tensor of `read_tensors`, in float64."""
    values = np.frombuffer(raw, SIZES[dtype])
    if dtype == "BF16":
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64).reshape(shape)


def write_model(folder: Path, tensors: Mapping[str, np.ndarray], config: Mapping[str, Any], dtype: str = "F32") -> Path:
    """A model folder of one weight file and a config."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    write_tensors(folder / "model.safetensors", tensors, dtype)
    return folder


def facts(kind: str, layers: int, **more: Any) -> dict[str, Any]:
    """A config."""
    return {
        "architectures": [f"{kind.title()}ForCausalLM"],
        "model_type": kind,
        "vocab_size": VOCABULARY,
        "hidden_size": WIDE,
        "intermediate_size": INNER,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEYS,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        **more,
    }


def shapes(kind: str, layers: int, vocabulary: int = VOCABULARY) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama; or of a model of another kind, which keeps some of them in one."""
    narrow = WIDE * KEYS // HEADS
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, WIDE)}
    for layer in range(layers):
        own: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (WIDE,)}
        if kind == "phi3":
            own["self_attn.qkv_proj.weight"] = (WIDE + 2 * narrow, WIDE)
        else:
            own |= {"self_attn.q_proj.weight": (WIDE, WIDE), "self_attn.k_proj.weight": (narrow, WIDE)}
            own |= {"self_attn.v_proj.weight": (narrow, WIDE)}
        own |= {"self_attn.o_proj.weight": (WIDE, WIDE), "post_attention_layernorm.weight": (WIDE,)}
        if kind == "mixtral":
            own |= {"mlp.gate.weight": (3, WIDE), "mlp.experts.gate_up_proj": (3, 2 * INNER, WIDE)}
            own |= {"mlp.experts.down_proj": (3, WIDE, INNER)}
        elif kind == "phi3":
            own |= {"mlp.gate_up_proj.weight": (2 * INNER, WIDE), "mlp.down_proj.weight": (WIDE, INNER)}
        else:
            own |= {"mlp.gate_proj.weight": (INNER, WIDE), "mlp.up_proj.weight": (INNER, WIDE)}
            own |= {"mlp.down_proj.weight": (WIDE, INNER)}
        found |= {f"model.layers.{layer}.{name}": shape for name, shape in own.items()}
    return found | {"model.norm.weight": (WIDE,), "lm_head.weight": (vocabulary, WIDE)}


def weights(kind: str, layers: int, model: str, vocabulary: int = VOCABULARY) -> dict[str, np.ndarray]:
    """A base, or a fine-tune of it: each has changed one half of the numbers much, and the others little."""
    found = {}
    for name, shape in shapes(kind, layers, vocabulary).items():
        values = numbers(shape, kind, "base", name) * 0.25 + (1.0 if name.endswith("norm.weight") else 0.0)
        if model != "base":
            change = numbers(shape, kind, model, name)
            often = numbers(shape, kind, model, name, "often") > 0.0
            values = values + change * np.where(often, 0.04, 0.004)
        found[name] = values
    return found


def words(tokens: list[str]) -> dict[str, Any]:
    """The tokenizer.json of whole words."""
    model = {"type": "WordLevel", "vocab": {token: index for index, token in enumerate(tokens)}, "unk_token": tokens[0]}
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor", "decoder"))
    return {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, **parts, "model": model}


def pairs(merges: list[str], more: list[str]) -> dict[str, Any]:
    """The tokenizer.json of byte-level pairs over a few letters, with some tokens added."""
    tokens = [*LETTERS, *(merge.replace(" ", "") for merge in merges)]
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
        "fuse_unk": False, "byte_fallback": False, "vocab": {token: index for index, token in enumerate(tokens)},
        "merges": merges,
    }  # fmt: skip
    kinds = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [{"id": len(tokens) + i, "content": token, **kinds, "special": True} for i, token in enumerate(more)]
    parts = dict.fromkeys(("truncation", "padding", "normalizer", "post_processor"))
    return {
        "version": "1.0", **parts, "added_tokens": added, "pre_tokenizer": bytewise, "decoder": bytewise, "model": model,
    }  # fmt: skip


TOKENIZERS = {
    "words": (words(["<unk>", "loom", "warp", "shed", "reed"]), words(["<unk>", "warp", "silk", "loom", "heddle"])),
    "pairs": (
        pairs(["a b", "c d", "ab cd"], ["<s>"]),
        pairs(["c d", "e f", "cd ef", "a b"], ["<s>", "<|im_start|>"]),
    ),
}


def make(root: Path) -> Path:
    """All models of the golden merges, in folders by kind, and within them by name."""
    for name in ("base", "a", "b", "c"):
        tuned = weights("llama", 4, name)
        for kind, dtype, torch in (
            ("llama", "F32", "float32"),
            ("half", "F16", "float16"),
            ("brain", "BF16", "bfloat16"),
        ):
            write_model(root / kind / name, tuned, facts("llama", 4, dtype=torch), dtype)
        if name != "c":
            write_model(root / "phi3" / name, weights("phi3", 2, name), facts("phi3", 2))
            write_model(
                root / "mixtral" / name,
                weights("mixtral", 2, name),
                facts("mixtral", 2, num_local_experts=3, num_experts_per_tok=2),
            )
    for kind, tokenizers in TOKENIZERS.items():
        for name, tokenizer in zip(("base", "chat"), tokenizers, strict=True):
            rows = len(tokenizer["model"]["vocab"]) + len(tokenizer["added_tokens"])
            folder = write_model(
                root / kind / name,
                weights("llama", 1, f"{kind} {name}", rows),
                facts("llama", 1, vocab_size=rows, bos_token_id=None, eos_token_id=0),
            )
            (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
            (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    return root
