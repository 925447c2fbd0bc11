"""What an adapter of the LoRA family holds: the factors of each module, and tensors that were trained whole.

Read from names, shapes and `adapter_config.json`, in the spellings of peft, kohya and diffusers. No weights are read. Which
tensors of a model the modules are is a view's business: `mergery.views.adapters`.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from mergery.checkpoints.adapters import read_adapter
from mergery.checkpoints.base import Checkpoint, TensorInfo
from mergery.checkpoints.file_kinds import ADAPTER
from mergery.checkpoints.json_files import parse_object
from mergery.errors import CheckpointError, MergeryError, Where, listed, raise_all

PREFIX = "base_model.model."

# How a tensor's name ends, by what it is to its module. Group `module` is the module's name.
_ROLES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (role, re.compile(rf"(?P<module>.+?){pattern}$"))
    for role, pattern in (
        ("down", r"\.lora_A(?:\.default)?\.weight"),
        ("up", r"\.lora_B(?:\.default)?\.weight"),
        ("up_bias", r"\.lora_B(?:\.default)?\.bias"),
        ("down", r"\.lora_embedding_A(?:\.default)?"),
        ("up", r"\.lora_embedding_B(?:\.default)?"),
        ("magnitude", r"\.lora_magnitude_vector(?:\.default)?(?:\.weight)?"),
        ("tokens", r"\.token_adapter\.trainable_tokens_delta(?:\.default)?"),
        ("down", r"(?:\.lora_down|\.lora\.down|\.lora_linear_layer\.down|_lora\.down)\.weight"),
        ("up", r"(?:\.lora_up|\.lora\.up|\.lora_linear_layer\.up|_lora\.up)\.weight"),
        ("alpha", r"\.alpha"),
    )
)
_UNREAD = re.compile(r"\.lora_mid\.|\.dora_scale$|\.lora_A$|\.lora_B$|\.lora_[A-Z]\.(?!default)\w+\.weight$|\.lora_E\b")
_WHOLE = re.compile(r"\.(?:base_layer|modules_to_save(?:\.default)?|original_module)(?=\.)")
_PROCESSOR = re.compile(r"\.processor\.(to_(?:q|k|v|out))$")

# Settings of peft by which an adapter is more than a product added to a weight.
_BEYOND: Mapping[str, str] = {
    "alora_invocation_tokens": "it acts only behind certain tokens (aLoRA)",
    "arrow_config": "it is a router between adapters (Arrow)",
    "kasa_config": "it also changes singular values (KaSA)",
    "layer_replication": "it was trained on a model whose layers are repeated",
    "monteclora_config": "it draws from a distribution (MonteCLoRA)",
    "use_bdlora": "its factors are block-diagonal (BD-LoRA)",
    "use_qalora": "it pools its inputs (QALoRA)",
}
WHOLE = f"check that its files are whole, and that {ADAPTER} is of the same training"
ELSEWHERE = "merge it into its model with the tool that trained it, and name that folder"
MOST = 1 << 31  # of ranks and alphas
_MOVED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # ways to begin that change the base's weights


@dataclass(frozen=True)
class Update:
    """What an adapter does to one module's weight: `scale` times up [out, r] times down [r, in] is added to it.

    Of a stack of experts, down is [experts x r, in] and up [out, r x experts]; of a convolution, both have the kernel's sides.
    """

    module: str  # as the adapter spells it
    down: TensorInfo
    up: TensorInfo
    rank: int
    scale: float
    alpha: TensorInfo | None = None  # a scalar by which the scale is multiplied
    magnitude: TensorInfo | None = None  # DoRA: the length of each output's weights
    up_bias: TensorInfo | None = None  # added, scaled, to the module's bias
    experts: int = 1
    parameters: tuple[str, ...] = ()  # which tensor of the module it may be; empty for its weight
    embedding: bool = False
    fan_in_fan_out: bool = False


@dataclass(frozen=True)
class LoraAdapter:
    """An adapter as it is stored: updates of modules, tensors that were trained whole, rows of tokens."""

    checkpoint: Checkpoint
    base: str | None  # the model that its config names
    updates: tuple[Update, ...]
    whole: Mapping[str, str] = field(
        default_factory=dict
    )  # a model's tensor, as the adapter spells it: what replaces it
    tokens: Mapping[str, tuple[str, tuple[int, ...]]] = field(
        default_factory=dict
    )  # by module: tensor, and the rows' ids

    @property
    def label(self) -> str:
        return self.checkpoint.label

    @property
    def rank(self) -> int:
        """The largest of its updates."""
        return max((update.rank for update in self.updates), default=0)


def read_lora(checkpoint: Checkpoint) -> LoraAdapter:
    """The adapter that a checkpoint holds. Raises CheckpointError, or Problems with all that is wrong."""
    return _Reader(checkpoint).read()


class _Reader:
    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.problems: list[MergeryError] = []
        self.said = self._config()
        self.peft = bool(self.said)

    def fail(self, what: str, why: str = "", hint: str = WHOLE) -> None:
        self.problems.append(CheckpointError(what, where=Where(self.checkpoint.location), why=why, hint=hint))

    def _config(self) -> dict[str, Any]:
        if ADAPTER not in self.checkpoint.files:
            return {}
        return parse_object(self.checkpoint.file(ADAPTER), f"{self.checkpoint.location}/{ADAPTER}")

    def read(self) -> LoraAdapter:
        self._check_kind()
        raise_all(self.problems)
        modules: dict[str, dict[str, TensorInfo]] = {}
        whole: dict[str, str] = {}
        unread: list[str] = []
        for name, info in self.checkpoint.tensors.items():
            role, module = _role(name)
            if role:
                modules.setdefault(module, {})[role] = info
            elif _UNREAD.search(name):
                unread.append(name)
            else:
                whole[_WHOLE.sub("", name.removeprefix(PREFIX))] = name
        if unread:
            self.fail(f"{listed(unread)} cannot be read", "how it changes the model is not known here", ELSEWHERE)
        if whole and not modules and not self.peft:
            self.fail(
                "this is no adapter",
                "it holds no pair of factors",
                "the model comes first: MODEL+ADAPTER; mergery adapter extract makes an adapter of a fine-tune",
            )
        elif whole and not self.peft:
            self.fail(
                f"{listed(list(whole.values()))} belongs to no module",
                "an adapter holds pairs of factors",
                "name the file that the training wrote",
            )
        updates = [update for module, found in modules.items() for update in self._update(module, found)]
        tokens = {
            module: (found["tokens"].name, self._ids(module, found["tokens"]))
            for module, found in modules.items()
            if "tokens" in found
        }
        if not updates and not whole and not tokens and not self.problems:
            self.fail(
                "this is no adapter",
                "no tensor of it is a factor, as lora_A and lora_B are",
                "a model stands alone, without a +",
            )
        raise_all(self.problems)
        base = self.said.get("base_model_name_or_path")
        return LoraAdapter(
            self.checkpoint, base if isinstance(base, str) and base else None, tuple(updates), whole, tokens
        )

    def _check_kind(self) -> None:
        found = read_adapter(self.checkpoint)
        kind = str(self.said.get("peft_type", "LORA"))
        if kind != "LORA" or (found is not None and found.kind not in ("LoRA", "DoRA")):
            name = found.kind if found is not None and kind == "LORA" else kind
            self.fail(
                f"adapters of type {name} cannot be merged",
                "LoRA, rsLoRA and DoRA can",
                ELSEWHERE,
            )
        for key, why in _BEYOND.items():
            if self.said.get(key):
                self.fail("this adapter cannot be merged", why, f"it is {key} in {ADAPTER}")
        begun = self.said.get("init_lora_weights")
        if isinstance(begun, str) and begun.lower().startswith(_MOVED_BASE):
            self.fail(
                "this adapter is for a base whose weights were changed before training",
                f"init_lora_weights is {begun!r} in {ADAPTER}",
                "save it with peft's path_initial_model_for_weight_conversion, which makes a plain LoRA of it",
            )

    def _update(self, module: str, found: Mapping[str, TensorInfo]) -> Iterator[Update]:
        """What is done to a module's weight; nothing where all its tensors are rows of tokens."""
        if found.keys() == {"tokens"}:
            return
        lacking = [role for role in ("down", "up") if role not in found]
        if lacking:
            first = next(iter(found.values())).name
            words = {"down": "first factor (lora_A, lora_down)", "up": "second factor (lora_B, lora_up)"}
            why = f"it has {first!r} and no {' and no '.join(words[role] for role in lacking)}"
            self.fail(f"the adapter's module {module!r} lacks a factor", why, "check that the file is complete")
            return
        down, up = found["down"], found["up"]
        if self.said.get("use_dora") and "magnitude" not in found:
            why = f"{ADAPTER} says use_dora, and there is no lora_magnitude_vector"
            self.fail(f"the adapter's module {module!r} lacks its magnitudes", why, "check that the file is complete")
            return
        last = module.rpartition(".")[2] if module.rpartition(".")[2] != "base_layer" else ""
        parameters = self._parameters(module)
        inner = module
        while inner.endswith(".base_layer"):
            inner = inner.removesuffix(".base_layer")
        if not last and not parameters:
            self.fail(f"the adapter's module {module!r} is not in target_parameters", f"so {ADAPTER} says")
            return
        embedding = "lora_embedding" in down.name
        keys = [f"{inner}.{each}" for each in parameters] or [inner]
        rank = self._number(keys, "rank_pattern", "r") if self.peft else (*down.shape, 0)[0]
        alpha = self._number(keys, "alpha_pattern", "lora_alpha") if self.peft else None
        shapes = f"{down.name} is {list(down.shape)} and {up.name} is {list(up.shape)}"
        if not rank or len(down.shape) < 2 or len(up.shape) < 2 or down.shape[0] != up.shape[1]:
            self.fail(f"the factors of {module!r} do not fit together", shapes, "check that the file is whole")
            return
        sizes = {"magnitude": up.shape[0], "alpha": 1}
        odd = [found[role] for role, size in sizes.items() if role in found and found[role].elements != size]
        odd += [info for info in found.values() if not info.dtype.mergeable or not info.elements]
        if odd:
            why = f"{odd[0].name} is {odd[0].dtype} {list(odd[0].shape)}"
            self.fail(f"the adapter's module {module!r} cannot be read", why, "check that the file is whole")
            return
        experts = down.shape[0] // int(rank)
        if experts * int(rank) != down.shape[0] or (experts > 1 and not parameters):
            self.fail(
                f"the rank of {module!r} is not what {ADAPTER} says",
                f"{down.name} is {list(down.shape)}, and r is {rank}",
            )
            return
        if self.peft and alpha is not None:
            scale = alpha / (math.sqrt(rank) if self.said.get("use_rslora") else rank)
        else:
            scale = 1.0 / down.shape[0] if "alpha" in found else 1.0
        yield Update(
            inner,
            down,
            up,
            int(rank),
            float(scale),
            None if self.peft else found.get("alpha"),
            found.get("magnitude"),
            found.get("up_bias"),
            experts,
            parameters,
            embedding,
            bool(self.said.get("fan_in_fan_out")),
        )

    def _parameters(self, module: str) -> tuple[str, ...]:
        """The parameters of a module that an adapter of parameters may mean; it wraps one in another, so names do not say."""
        while module.endswith(".base_layer"):
            module = module.removesuffix(".base_layer")
        targets = self.said.get("target_parameters")
        found = []
        for target in targets if isinstance(targets, list) else ():
            inner, _, parameter = str(target).rpartition(".")
            if not inner or module == inner or module.endswith(f".{inner}"):
                found.append(parameter)
        return tuple(found)

    def _number(self, modules: list[str], pattern: str, otherwise: str) -> float | None:
        """The rank or the alpha of a module: of the first pattern that fits, as in peft, or the adapter's own."""
        patterns = self.said.get(pattern)
        value = self.said.get(otherwise, 8)
        for key, own in patterns.items() if isinstance(patterns, dict) else ():
            if any(_fits(str(key), module) for module in modules):
                value = own
                break
        known = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < MOST
        if not known or (otherwise == "r" and value != int(value)):
            self.fail(f"{otherwise} is {value!r} in {ADAPTER}", f"for the module {modules[0]!r}")
            return None
        return value

    def _ids(self, module: str, info: TensorInfo) -> tuple[int, ...]:
        """The tokens whose rows an adapter replaces."""
        said = self.said.get("trainable_token_indices")
        if isinstance(said, dict):
            said = next((ids for key, ids in said.items() if module == key or module.endswith(f".{key}")), None)
        if not isinstance(said, list) or not all(type(each) is int and each >= 0 for each in said):
            said = []
        rows = info.shape[0] if len(info.shape) == 2 else 0
        if len(said) != rows or not rows:
            why = f"{info.name} has {rows} rows, and trainable_token_indices in {ADAPTER} has {len(said)}"
            self.fail("the adapter does not say whose rows it replaces", why)
        return tuple(said)


def _role(name: str) -> tuple[str, str]:
    """What a tensor is to its module, and the module's name; empty where it is no part of an adapter's own."""
    for role, pattern in _ROLES:
        match = pattern.match(name.removeprefix(PREFIX))
        if match:
            return role, _PROCESSOR.sub(r".\1", match["module"])
    return "", ""


def _fits(pattern: str, module: str) -> bool:
    """Whether a pattern of peft means a module: the end of its name, as a regular expression."""
    found = _compiled(pattern)
    if found is None:
        return module == pattern or module.endswith(f".{pattern}")
    return found.match(module) is not None


@cache
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """A pattern of peft; None where it is no regular expression."""
    try:
        with warnings.catch_warnings():  # of forms that a later Python may read otherwise
            warnings.simplefilter("ignore", FutureWarning)
            return re.compile(rf"(.*\.)?({pattern})$")
    except re.error:
        return None
