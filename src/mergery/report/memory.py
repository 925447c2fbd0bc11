"""What a model takes when it runs: its weights by format, its cache by length of context, and the machines that hold both.

Sizes of the cache are taken from the shapes of the tensors that make keys and values, not from a config, which may lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mergery.architecture import Architecture
from mergery.architecture.fused import fused_parts
from mergery.checkpoints import Config, TensorInfo

CARDS = (8, 12, 16, 24, 32, 48, 80, 141)  # GB of memory
LAPTOPS = (16, 32, 64, 128)
CONTEXTS = (4096, 8192, 32768, 131072)
WANTED = 8192  # tokens of context that a machine must hold beside the weights
CARD_SHARE, LAPTOP_SHARE = 0.9, 0.75  # of the memory that a model can have; the rest is for activations and the system
BUFFERS = 500_000_000  # bytes of activations, about
CACHE_BYTES = 2  # of an entry: float16 or bfloat16
STATE_BYTES = 4
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
USED = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "top_k_experts")
MAMBA_2 = {"heads": ("num_heads", "n_mamba_heads", "mamba_n_heads"), "width": ("head_dim", "mamba_d_head"),
           "state": ("state_size", "mamba_d_state", "ssm_state_size")}  # fmt: skip
LINEAR = ("linear_num_value_heads", "linear_key_head_dim", "linear_value_head_dim")


class Format(NamedTuple):
    """Bits of an entry: of matrices, of embeddings and head, of vectors."""

    name: str
    matrix: float
    table: float
    vector: float
    mixed: float = 0.0  # of the matrices to which llama.cpp's mixtures give more


FORMATS = (
    Format("float32", 32, 32, 32),
    Format("bfloat16", 16, 16, 16),
    Format("int8 or FP8, tables in bfloat16", 8, 16, 16),
    Format("GGUF q8_0", 8.5, 8.5, 32),
    Format("GGUF q6_k", 6.5625, 6.5625, 32),
    Format("GGUF q5_k_m", 5.5, 6.5625, 32, 6.5625),
    Format("GGUF q4_k_m", 4.5, 6.5625, 32, 6.5625),
    Format("GGUF q4_0, tables in q8_0", 4.5, 8.5, 32),
    Format("NF4, tables in bfloat16", 4.127, 16, 16),
)


class Layer(NamedTuple):
    """What a layer keeps: entries for each token, up to so many tokens, and entries whatever the length."""

    entries: int
    window: int | None
    state: int


def memory(tensors: Mapping[str, TensorInfo], architecture: Architecture, config: Config) -> dict[str, Any]:
    """The facts of `mergery inspect --memory`, ready for JSON; bytes throughout."""
    layers = list(_layers(tensors, architecture, config))
    limit = config.language.get("max_position_embeddings")
    most = limit if isinstance(limit, int) and limit > 0 else CONTEXTS[-1]
    contexts = sorted({each for each in CONTEXTS if each <= most} | {most})
    total = sum(info.elements for info in tensors.values() if info.dtype.floating)
    active, experts = _active(tensors, config, total)
    weights = {format.name: round(_weights(tensors, architecture, format)) for format in FORMATS}
    machines = [*((f"{size} GB card", size * 1e9 * CARD_SHARE) for size in CARDS)]
    machines += [(f"{size} GB laptop", size * 1e9 * LAPTOP_SHARE) for size in LAPTOPS]
    return {
        "parameters": total,
        "active": active,
        "experts": experts,
        "weights": weights,
        "cache": {context: cache(layers, context) for context in contexts},
        "fits": [_fit(name, room, weights, layers, most) for name, room in machines],
    }


def cache(layers: list[Layer], context: int) -> int:
    """Bytes of keys, values and states of one sequence of so many tokens."""
    kept = sum(layer.entries * min(context, layer.window or context) for layer in layers)
    return kept * CACHE_BYTES + sum(layer.state for layer in layers) * STATE_BYTES


def _fit(name: str, room: float, weights: Mapping[str, int], layers: list[Layer], most: int) -> dict[str, Any]:
    """The finest format that a machine holds with a usual context, and the longest context then."""
    wanted = min(WANTED, most)
    for format, nbytes in list(weights.items())[1:]:  # nobody runs a model in float32
        left = room - BUFFERS - nbytes
        if cache(layers, wanted) <= left:
            low, high = wanted, most
            while low < high:
                middle = (low + high + 1) // 2
                low, high = (middle, high) if cache(layers, middle) <= left else (low, middle - 1)
            return {"machine": name, "format": format, "context": low}
    return {"machine": name, "format": None, "context": 0}


def _active(tensors: Mapping[str, TensorInfo], config: Config, total: int) -> tuple[int, dict[str, int] | None]:
    """Parameters that one token meets; and how many experts there are, and are used."""
    said = config.language
    count = next((said[key] for key in EXPERTS if isinstance(said.get(key), int)), 0)
    used = next((said[key] for key in USED if isinstance(said.get(key), int)), 0)
    if count < 2 or not 0 < used <= count:
        return total, None
    routed = sum(info.elements for name, info in tensors.items() if ".experts." in name or name.endswith(".experts"))
    return total - routed * (count - used) // count, {"count": count, "used": used}


def _weights(tensors: Mapping[str, TensorInfo], architecture: Architecture, format: Format) -> float:
    depth = architecture.depth or 1
    bits = 0.0
    for name, info in tensors.items():
        parsed = architecture.names[name]
        if not info.dtype.floating:
            bits += info.nbytes * 8
        elif len(info.shape) < 2:
            bits += info.elements * format.vector
        elif {"embed", "head"} & set(parsed.roles):
            bits += info.elements * format.table
        else:
            finer = format.mixed and {"attention.v", "mlp.down"} & set(parsed.roles) and _more_bits(parsed.layer, depth)
            bits += info.elements * (format.mixed if finer else format.matrix)
    return bits / 8


def _more_bits(layer: int | None, depth: int) -> bool:
    """The layers in which llama.cpp's mixtures give two of the matrices more bits: the first and last eighth, every third."""
    if layer is None:
        return False
    return layer < depth // 8 or layer >= 7 * depth // 8 or (layer - depth // 8) % 3 == 2


def _layers(tensors: Mapping[str, TensorInfo], architecture: Architecture, config: Config) -> Iterator[Layer]:
    entries: dict[int, int] = {}
    states: dict[int, int] = {}
    for name, info in tensors.items():
        parsed = architecture.names[name]
        if parsed.layer is None or parsed.part != "language" or not len(info.shape) >= 1:
            continue
        roles = set(parsed.roles)
        if name.endswith(("A_log", ".conv1d.weight")):
            states[parsed.layer] = states.get(parsed.layer, 0) + _state(name, info, config.language)
        elif len(info.shape) == 2:
            entries[parsed.layer] = entries.get(parsed.layer, 0) + _entries(name, info, roles, config)
    for layer in range(architecture.depth or 0):
        yield Layer(entries.get(layer, 0), _window(layer, config.language), states.get(layer, 0))


def _entries(name: str, info: TensorInfo, roles: set[str], config: Config) -> int:
    """Entries of the cache for each token that a matrix makes."""
    if "attention.k" in roles or "attention.v" in roles:
        return info.shape[0]
    if "attention.kv" in roles:  # multi-head latent attention keeps what is between its two factors
        return info.shape[0] if "kv_a" in name else 0
    if "attention.qkv" in roles:
        parts = fused_parts(name, info.shape, tuple(roles), config) or ()
        return sum(part.shape[0] for part in parts if part.key in ("k", "v"))
    return 0


def _state(name: str, info: TensorInfo, said: Config) -> int:
    """Entries of a recurrent state: of a state-space model, of linear attention, or the last inputs of a convolution."""
    if name.endswith(".conv1d.weight") or len(info.shape) > 1:
        return info.elements
    if all(isinstance(said.get(key), int) for key in LINEAR):
        heads, keys, values = (said[key] for key in LINEAR)
        return heads * keys * values
    found = {
        what: next((said[key] for key in keys if isinstance(said.get(key), int)), 0) for what, keys in MAMBA_2.items()
    }
    return (found["heads"] or info.elements) * found["width"] * found["state"]


def _window(layer: int, said: Config) -> int | None:
    """How many tokens a layer looks back; None for all."""
    kinds, window = said.get("layer_types"), said.get("sliding_window")
    if isinstance(kinds, list) and layer < len(kinds):
        if kinds[layer] == "chunked_attention":
            window = said.get("attention_chunk_size")
        return (
            window if kinds[layer] in ("sliding_attention", "chunked_attention") and isinstance(window, int) else None
        )
    everywhere = said.get("use_sliding_window", said.family in ("mistral", "mixtral", "phi3"))
    return window if everywhere and isinstance(window, int) and window > 0 else None
