"""A model's `config.json`: what it states, and the sections that describe its parts."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

LANGUAGE = ("text_config", "llm_config", "language_config")
SECTIONS = {
    "language": LANGUAGE,
    "vision": ("vision_config", "visual", "vision_tower_config"),
    "audio": ("audio_config", "audio_processor", "speech_config"),
}
DEPTHS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_blocks")


SCHEME = "quantization_config"


class Config(Mapping[str, Any]):
    """What a `config.json` states, not to be changed. An empty one, which is false, stands for a model that has none."""

    def __init__(self, stated: Mapping[str, Any] | None = None) -> None:
        self._stated = stated or {}
        self._sections: dict[str, Config] = {}

    def __getitem__(self, key: str) -> Any:
        return self._stated[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stated)

    def __len__(self) -> int:
        return len(self._stated)

    def __repr__(self) -> str:
        return f"Config({self._stated!r})"

    def plain(self) -> dict[str, Any]:
        """A copy that can be changed and written."""
        return copy.deepcopy(dict(self._stated))

    def section(self, part: str) -> Config:
        """The section that describes one part of a multimodal model; the whole for the language model without its own."""
        if part not in self._sections:
            own = next((self[key] for key in SECTIONS.get(part, ()) if isinstance(self.get(key), dict)), None)
            self._sections[part] = self if own is None and part == "language" else Config(own)
        return self._sections[part]

    def with_language(self, section: Mapping[str, Any]) -> Config:
        """The same config with another section of the language model; with another whole, where it has none."""
        key = next((key for key in LANGUAGE if isinstance(self.get(key), dict)), None)
        return Config(section if key is None else {**self._stated, key: section})

    @property
    def language(self) -> Config:
        """The section of the language model, or the whole."""
        return self.section("language")

    @property
    def family(self) -> str | None:
        """The `model_type`."""
        family = self.get("model_type")
        return family if isinstance(family, str) else None

    def family_of(self, part: str) -> str | None:
        """The `model_type` of one part, or else of the whole."""
        return self.section(part).family or self.family

    @property
    def depth(self) -> int | None:
        """The number of layers of the language model."""
        return next((self.language[key] for key in DEPTHS if isinstance(self.language.get(key), int)), None)

    @property
    def tied(self) -> bool | None:
        """Whether the head is tied to the embeddings; None where that is not stated."""
        stated = (each.get("tie_word_embeddings") for each in (self, self.language))
        return next((each for each in stated if isinstance(each, bool)), None)

    def with_tied(self, tied: bool) -> Config:
        """The same config, which states whether the head is tied, for the whole and for the language model; an empty one is as
        it was.
        """
        if not self:
            return self
        result = {**self._stated, "tie_word_embeddings": tied}
        key = next((key for key in LANGUAGE if isinstance(self.get(key), dict)), None)
        return Config(result if key is None else {**result, key: {**result[key], "tie_word_embeddings": tied}})

    @property
    def quantisation(self) -> Any:
        """How the weights are quantised: what `quantization_config` holds, None where there is none."""
        return self.language.get(SCHEME) or self.get(SCHEME)


def without_scheme(config: dict[str, Any]) -> dict[str, Any]:
    """A config that says nothing of quantisation, in any of its sections."""
    return {
        key: without_scheme(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key != SCHEME
    }
