"""Whatever an adapter's config and headers hold, reading them gives an adapter or one clear error."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mergery.api import plan
from mergery.checkpoints.adapted import AdaptedCheckpoint
from mergery.checkpoints.base import Contents
from mergery.checkpoints.file_kinds import ADAPTER
from mergery.checkpoints.lora import read_lora
from mergery.checkpoints.memory import MemoryCheckpoint
from mergery.errors import MergeryError

Q = "base_model.model.model.layers.0.self_attn.q_proj"
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
FACTORS = {f"{Q}.lora_A.weight": (2, 4), f"{Q}.lora_B.weight": (4, 2)}
BASE = {
    "model.layers.0.self_attn.q_proj.weight": np.ones((4, 4), np.float32),
    "model.norm.weight": np.ones(4, np.float32),
}

odd: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from([0, -1, "(", "q_proj"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4) | st.just("q_proj"), inner, max_size=2)
    ),
    max_leaves=5,
)
KEYS = (
    "peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_parameters", "use_rslora", "use_dora", "bias",
    "fan_in_fan_out", "init_lora_weights", "layer_replication", "trainable_token_indices", "base_model_name_or_path",
    "modules_to_save", "alora_invocation_tokens",
)  # fmt: skip
NAMES = (
    f"{Q}.lora_A.weight", f"{Q}.lora_B.weight", f"{Q}.lora_B.bias", f"{Q}.lora_magnitude_vector", f"{Q}.lora_A.other.weight",
    f"{Q}.lora_embedding_A", f"{Q}.lora_embedding_B", f"{Q}.alpha", f"{Q}.token_adapter.trainable_tokens_delta",
    f"{Q}.base_layer.lora_A.weight", f"{Q}.base_layer.weight", "base_model.model.model.norm.weight", "x",
    "lora_te_q.lora_up.weight",
)  # fmt: skip
shapes = st.lists(st.sampled_from([0, 1, 2, 3, 4, 8]), max_size=4).map(tuple)


class Adapter(MemoryCheckpoint):
    """An adapter in memory, with its config."""

    def __init__(self, names: dict[str, tuple[int, ...]], said: Any) -> None:
        super().__init__({name: np.ones(shape, np.float32) for name, shape in names.items()}, "lora")
        self.said = said

    @property
    def contents(self) -> Contents:
        return Contents(side=(ADAPTER,))

    def file(self, name: str) -> bytes:
        return json.dumps(self.said).encode()


def planned(adapter: Adapter) -> None:
    model = AdaptedCheckpoint(MemoryCheckpoint(BASE, "base"), [adapter])
    plan({"models": {"a": model}, "merge": {"method": "passthrough"}}).close()


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), odd, max_size=3))
@example({"r": True})
@example({"lora_alpha": 10**400})
@example({"alpha_pattern": {"[[a]q_proj": 3}})
@example({"rank_pattern": {"(": 3}})
@example({"target_parameters": ["q_proj.weight", 3, None]})
@example({"trainable_token_indices": {"q_proj": [-1]}})
def test_any_config_gives_an_adapter_or_a_clear_error(said: dict[str, Any]) -> None:
    try:
        planned(Adapter(FACTORS, CONFIG | said))
    except MergeryError as error:
        assert str(error)


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), shapes, min_size=1, max_size=4))
@example({f"{Q}.lora_A.weight": (0, 4), f"{Q}.lora_B.weight": (4, 0)})
@example({f"{Q}.lora_A.weight": (), f"{Q}.lora_B.weight": ()})
def test_any_headers_give_an_adapter_or_a_clear_error(names: dict[str, tuple[int, ...]]) -> None:
    try:
        planned(Adapter(names, CONFIG))
    except MergeryError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("said", "scale"),
    [
        ({}, 2.0),
        ({"use_rslora": True}, 4 / 2**0.5),
        ({"alpha_pattern": {"q_proj": 1}}, 0.5),
        ({"alpha_pattern": {"k_proj": 1, r".*\.self_attn\.q_proj": 3}}, 1.5),
        ({"r": 8, "rank_pattern": {"layers.0.self_attn.q_proj": 2}}, 2.0),
    ],
)
def test_the_scale(said: dict[str, Any], scale: float) -> None:
    (update,) = read_lora(Adapter(FACTORS, CONFIG | said)).updates
    assert update.scale == scale
    assert update.module == Q.removeprefix("base_model.model.")
