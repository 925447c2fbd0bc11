"""What a `config.json` says, in the keys of GGUF. What llama.cpp would compute otherwise is refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from mergery.checkpoints.config import Config
from mergery.checkpoints.gguf.config import LARGE_GEMMA
from mergery.checkpoints.gguf.families import Family
from mergery.checkpoints.gguf.rotation import FACTORS, LONG, SHORT, Scaling, llama3_factors
from mergery.errors import PlanError

OTHERWISE = {"num_experts": "num_local_experts", "num_local_experts": "num_experts"}  # keys of one meaning
OPTIONAL = ("sliding_window", "final_logit_softcapping", "rope_local_base_freq")


class Stated:
    """The keys of a model and the tensors that are lists of its config. `notes` are what the user should know."""

    def __init__(self, family: Family, config: Config) -> None:
        self.family, self.config = family, config
        self.keys: dict[str, Any] = {}
        self.lists: dict[str, list[float]] = {}
        self.notes: list[str] = []
        self._check_fixed()
        if family.kind == "mamba":
            self._mamba()
        else:
            self._transformer()

    def refuse(self, why: str) -> NoReturn:
        what = f"this {self.family.kind} cannot be written as GGUF"
        raise PlanError(what, why=why, hint="llama.cpp would compute something else with it")

    def need(self, key: str) -> Any:
        """A number of the config."""
        value = self.config.get(key)
        if value is None and key in OTHERWISE:
            value = self.config.get(OTHERWISE[key])
        if value is None or isinstance(value, bool) or not isinstance(value, (int, float)):
            what = f"this {self.family.kind} cannot be written as GGUF"
            raise PlanError(what, why=f"its config.json has no number for {key!r}", hint="add it to the config")
        return value

    def _check_fixed(self) -> None:
        for key, value in self.family.fixed.items():
            stated = self.config.get(key, False if key == "norm_topk_prob" else value)
            if stated != value and not (key == "mlp_only_layers" and not stated):
                self.refuse(f"its {key} is {stated!r}, and llama.cpp takes {value!r} for granted")
        if self.config.get("use_sliding_window"):
            self.refuse("its attention has a sliding window, which llama.cpp does not know for it")

    def _mamba(self) -> None:
        self._settings()
        if self.keys["ssm.inner_size"] != 2 * self.keys["embedding_length"]:
            self.refuse("its inner width is not twice its width")
        self.keys |= {"context_length": 1 << 20, "feed_forward_length": 0, "attention.head_count": 0}

    def _settings(self) -> None:
        for key, ours in self.family.settings.items():
            value = (
                self.config.get(ours) if ours in OPTIONAL else self.need(ours) if ours not in self._derived else None
            )
            if value is not None:
                self.keys[key] = float(value) if _is_real(key) else value

    @property
    def _derived(self) -> tuple[str, ...]:
        return ("head_dim", "rope_theta", "num_key_value_heads", "original_max_position_embeddings")

    def _transformer(self) -> None:
        config, family = self.config, self.family
        self._settings()
        heads, width = self.need("num_attention_heads"), self.need("hidden_size")
        head = config.get("head_dim") or width // heads
        self.keys["attention.head_count_kv"] = config.get("num_key_value_heads") or heads
        rope, local = self._rope()
        share = rope.get("partial_rotary_factor", config.get("partial_rotary_factor")) or 1
        rotated = int(head * share)
        if rotated != head and family.kind != "phi3":
            self.refuse(f"it rotates {rotated} of the {head} dimensions of a head")
        self.keys["rope.dimension_count"] = rotated
        if family.kind not in ("phi3", "granite", "exaone"):
            self.keys |= {"attention.key_length": head, "attention.value_length": head}
        elif head != width // heads:
            self.refuse(f"its heads have {head} dimensions, not {width // heads}")
        theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
        self.keys["rope.freq_base"] = theta
        self._scale(rope, Scaling(head, theta))
        if family.kind.startswith("gemma") and family.kind != "gemma":
            self._gemma(head, width // heads, local)
        if family.kind == "mistral" and config.get("sliding_window"):
            self.notes.append(
                "llama.cpp lets every layer of a Mistral see the whole context, not only its sliding window"
            )
        if family.kind == "phi3":
            self.keys["attention.sliding_window"] = config.get("sliding_window") or 0

    def _rope(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """How positions turn, in layers that see all and in those with a window: in the new spelling or the old one."""
        stated = self.config.get("rope_parameters")
        if isinstance(stated, dict) and stated:
            if isinstance(stated.get("full_attention"), dict):
                return stated["full_attention"], stated.get("sliding_attention") or {}
            return stated, stated
        scaling = self.config.get("rope_scaling")
        old = dict(scaling) if isinstance(scaling, dict) else {}
        if "type" in old:
            old.setdefault("rope_type", old["type"])
        local = self.config.get("rope_local_base_freq")
        return old, {"rope_theta": local} if local else {}

    def _scale(self, rope: Mapping[str, Any], base: Scaling) -> None:
        kind = rope.get("rope_type", "default")
        if kind in ("default", None):
            return
        factor = rope.get("factor")
        if kind == "linear" and factor:
            self.keys |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(factor)}
        elif kind == "llama3" and self.family.kind in ("llama", "exaone", "granite"):
            words = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
            found = [rope.get(word) for word in words]
            told = [float(each) for each in found if isinstance(each, int | float) and each > 0]
            if len(told) < len(words) or told[1] >= told[2]:
                self.refuse(f"its positions are stretched as Llama 3.1's, by {dict(zip(words, found, strict=True))}")
            self.lists[FACTORS] = llama3_factors(base, told[0], told[1], told[2], int(told[3]))
        elif kind == "yarn" and factor:
            original = rope.get("original_max_position_embeddings") or self.need("max_position_embeddings")
            self.keys |= {
                "rope.scaling.type": "yarn", "rope.scaling.factor": float(factor),
                "rope.scaling.original_context_length": int(original),
            }  # fmt: skip
            named = {
                "attention_factor": "yarn_attn_factor",
                "beta_fast": "yarn_beta_fast",
                "beta_slow": "yarn_beta_slow",
            }
            self.keys |= {f"rope.scaling.{key}": float(rope[ours]) for ours, key in named.items() if rope.get(ours)}
        elif kind in ("longrope", "su") and self.family.kind == "phi3":
            self._long(rope)
        else:
            self.refuse(f"its positions are stretched in the way {kind!r}")

    def _long(self, rope: Mapping[str, Any]) -> None:
        original = int(rope.get("original_max_position_embeddings") or self.need("original_max_position_embeddings"))
        scale = self.need("max_position_embeddings") / original
        factor = math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
        self.keys |= {"rope.scaling.original_context_length": original, "rope.scaling.attn_factor": factor}
        self.lists |= {LONG: list(map(float, rope["long_factor"])), SHORT: list(map(float, rope["short_factor"]))}

    def _gemma(self, head: int, share: int, local: Mapping[str, Any]) -> None:
        depth = self.need("num_hidden_layers")
        scalar = share if depth == LARGE_GEMMA[self.family.architecture] else head
        if self.config.get("query_pre_attn_scalar", scalar) != scalar:
            self.refuse(
                f"its query_pre_attn_scalar is {self.config['query_pre_attn_scalar']}, and llama.cpp takes {scalar}"
            )
        every = 2 if self.family.kind == "gemma2" else 6
        usual = ["full_attention" if (layer + 1) % every == 0 else "sliding_attention" for layer in range(depth)]
        stated = self.config.get("layer_types") or usual
        if stated != usual:
            self.refuse(f"its layers see the whole context in another order than every {every}th")
        if self.family.kind == "gemma3_text" and local.get("rope_theta"):
            self.keys["rope.freq_base_swa"] = float(local["rope_theta"])


def _is_real(key: str) -> bool:
    return any(word in key for word in ("epsilon", "freq_base", "softcapping", "scale"))
