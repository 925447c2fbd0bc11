"""Spaces: which axes of a model's tensors change together."""

from __future__ import annotations

import pytest

from mergery.architecture import read_architecture
from mergery.architecture.spaces import Axis, Spaces, read_spaces
from mergery.checkpoints import Config, TensorInfo
from mergery.dtypes import F32

LLAMA = {
    "model_type": "llama", "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 10,
}  # fmt: skip
LAYER = {
    "self_attn.q_proj.weight": (8, 8), "self_attn.k_proj.weight": (4, 8), "self_attn.v_proj.weight": (4, 8),
    "self_attn.o_proj.weight": (8, 8), "mlp.gate_proj.weight": (12, 8), "mlp.up_proj.weight": (12, 8),
    "mlp.down_proj.weight": (8, 12), "input_layernorm.weight": (8,), "post_attention_layernorm.weight": (8,),
}  # fmt: skip
WHOLE = {
    "model.embed_tokens.weight": (10, 8),
    **{f"model.layers.0.{name}": shape for name, shape in LAYER.items()},
    "model.norm.weight": (8,),
    "lm_head.weight": (10, 8),
}


def found(shapes: dict[str, tuple[int, ...]], config: dict) -> Spaces | None:
    infos = [TensorInfo(name, shape, F32) for name, shape in shapes.items()]
    return read_spaces(infos, read_architecture(infos, Config(config)), Config(config))


def read(shapes: dict[str, tuple[int, ...]], config: dict) -> Spaces:
    spaces = found(shapes, config)
    assert spaces is not None
    return spaces


def axes(spaces: Spaces, name: str) -> list[tuple[Axis | None, ...]]:
    return [piece.axes for piece in spaces.pieces if piece.tensor.endswith(name)]


def test_the_spaces_of_a_llama_by_hand():
    spaces = read(WHOLE, LLAMA)
    residual, reads = Axis("residual"), Axis("residual", reads=True)
    wanted = {
        "embed_tokens.weight": (Axis("vocabulary"), residual),
        "q_proj.weight": (Axis("layers.0.queries"), reads),
        "k_proj.weight": (Axis("layers.0.keys"), reads),
        "v_proj.weight": (Axis("layers.0.values"), reads),
        "o_proj.weight": (residual, Axis("layers.0.mixed", reads=True)),
        "gate_proj.weight": (Axis("layers.0.mlp", signed=False), reads),
        "up_proj.weight": (Axis("layers.0.mlp"), reads),
        "down_proj.weight": (residual, Axis("layers.0.mlp", reads=True)),
        "input_layernorm.weight": (Axis("residual", signed=False),),
        "model.norm.weight": (Axis("residual", signed=False),),
        "lm_head.weight": (Axis("vocabulary"), reads),
    }
    assert {name: axes(spaces, name) for name in wanted} == {name: [each] for name, each in wanted.items()}
    assert not spaces.unknown
    heads = spaces.attention[0]
    assert (heads.queries, heads.keys, heads.size, heads.free, heads.pairs) == (4, 2, 2, "planes", ((0, 1),))
    assert spaces.sizes["residual"] == (8, True)
    assert spaces.sizes["layers.0.mlp"] == (12, True)


def test_matrices_that_stand_the_other_way_round_and_fused_ones():
    """GPT-2: query, key and value in one tensor, whose columns are outputs; no sign passes its norms or its activation."""
    config = {"model_type": "gpt2", "n_embd": 4, "n_head": 2, "vocab_size": 10}
    layer = {"attn.c_attn.weight": (4, 12), "attn.c_attn.bias": (12,), "attn.c_proj.weight": (4, 4), "ln_1.bias": (4,),
             "mlp.c_fc.weight": (4, 16), "mlp.c_proj.weight": (16, 4)}  # fmt: skip
    shapes = {"wte.weight": (10, 4), "wpe.weight": (6, 4), **{f"h.0.{name}": shape for name, shape in layer.items()}}
    spaces = read(shapes, config)
    reads = Axis("residual", reads=True)
    words = ("queries", "keys", "values")
    assert axes(spaces, "c_attn.weight") == [(reads, Axis(f"layers.0.{word}")) for word in words]
    assert axes(spaces, "c_attn.bias") == [(Axis(f"layers.0.{word}"),) for word in words]
    assert axes(spaces, "attn.c_proj.weight") == [(Axis("layers.0.mixed", reads=True), Axis("residual"))]
    assert axes(spaces, "c_fc.weight") == [(reads, Axis("layers.0.mlp", signed=False))]
    assert axes(spaces, "mlp.c_proj.weight") == [
        (Axis("layers.0.mlp", reads=True, signed=False), Axis("residual")),
    ]
    assert axes(spaces, "wpe.weight") == [(None, Axis("residual"))]
    assert not spaces.sizes["residual"].signs
    assert spaces.attention[0].free == "any"


def test_the_experts_of_a_mixture():
    config = {**LLAMA, "model_type": "mixtral", "num_local_experts": 2}
    moe = "model.layers.0.block_sparse_moe"
    experts = {f"{moe}.experts.{number}.w1.weight": (12, 8) for number in range(2)}
    spaces = read({**{name: shape for name, shape in WHOLE.items() if ".mlp." not in name}, **experts,
                   f"{moe}.gate.weight": (2, 8)}, config)  # fmt: skip
    assert axes(spaces, "gate.weight") == [(Axis("layers.0.experts"), Axis("residual", reads=True))]
    assert axes(spaces, "experts.1.w1.weight") == [
        (Axis("layers.0.experts.1.mlp", signed=False), Axis("residual", reads=True)),
    ]
    assert [piece.expert for piece in spaces.pieces if ".w1." in piece.tensor] == ["0", "1"]


def test_what_is_not_known_is_named_and_not_guessed():
    assert found(WHOLE, {**LLAMA, "model_type": "mamba"}) is None
    spaces = read({**WHOLE, "model.layers.0.mlp.gain": (3, 3)}, LLAMA)
    assert spaces.unknown == {
        "model.layers.0.mlp.gain": "no rule says what the axes of a tensor of the role 'mlp' stand for"
    }
    spaces = read({**WHOLE, "model.layers.0.mlp.down_proj.weight": (8, 11)}, LLAMA)
    assert spaces.unknown == {"model.layers.0.mlp.down_proj.weight": "it is [8, 11], and layers.0.mlp has 12"}


@pytest.mark.parametrize("free", ["planes", "signs"])
def test_norms_of_queries_and_keys_leave_signs_alone(free):
    shapes = dict(WHOLE)
    if free == "signs":
        shapes |= {f"model.layers.0.self_attn.{word}_norm.weight": (2,) for word in "qk"}
    spaces = read(shapes, {**LLAMA, "model_type": "qwen3"})
    assert spaces.attention[0].free == free


def test_a_plain_chain_of_matrices():
    shapes = {"0.bias": (5,), "0.weight": (5, 3), "10.weight": (2, 4), "2.weight": (4, 5), "2.bias": (4,)}
    spaces = read(shapes, {"model_type": "mlp"})
    assert not spaces.unknown
    assert axes(spaces, "0.weight")[0] == (Axis("hidden.0"), None)
    assert axes(spaces, "2.weight")[0] == (Axis("hidden.1"), Axis("hidden.0", reads=True))
    assert axes(spaces, "10.weight") == [(None, Axis("hidden.1", reads=True))]
    assert {name: space.size for name, space in spaces.sizes.items()} == {"hidden.0": 5, "hidden.1": 4}
    broken = read({**shapes, "2.weight": (4, 6)}, {"model_type": "mlp"})
    assert broken.unknown["2.weight"] == "it reads 6 numbers, and the matrix before it writes 5"
