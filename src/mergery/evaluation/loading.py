"""Models in memory, as transformers makes them of files or tensors. What it makes up is refused, code is never run."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from mergery.errors import CheckpointError, RecipeError, Where

Head = Literal["language", "labels"]

FITTING: Mapping[Head, str] = {
    "language": "give tasks of texts with labels, or a model that writes text",
    "labels": "give tasks without labels, or a model that was trained to classify",
}
"""What to try where a model lacks a head."""

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.*", "spiece.model", "*.tiktoken")
"""Files of which a tokenizer has one, whatever its kind."""


@dataclass(frozen=True)
class Loaded:
    """A model in memory, ready to be run."""

    module: Any  # a transformers model in eval mode
    tokenizer: Any

    @property
    def config(self) -> Any:
        return self.module.config

    @property
    def longest(self) -> int:
        """Tokens that the model takes at once; 2048 where its config does not say."""
        return window(self.config)


def window(config: Any) -> int:
    """Tokens that a model of this config takes at once; 2048 where it does not say."""
    text = getattr(config, "text_config", None) or config
    for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
        if isinstance(getattr(text, key, None), int):
            return getattr(text, key)
    return 2048


def pretrained(path: str, head: Head, dtype: str, *, whole: bool = True) -> Any:
    """A model folder's module; not `whole` where weights may be missing, because an adapter brings them."""
    from transformers import AutoConfig

    class_for(read_with(AutoConfig, path, path), head)
    module, report = read_with(family_of(head), path, path, dtype=dtype_of(dtype), output_loading_info=True)
    return complete(module, report, path) if whole else module


def read_with(family: Any, folder: str, where: str, **options: Any) -> Any:
    """What a class of transformers makes of a folder. Code that came with a model is not run, nor the user asked."""
    try:
        return family.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        why = "code that comes with a model is never run"
        hint = "it merges as it is; to evaluate it, load it yourself and give the module"
        raise CheckpointError("transformers knows no such model", where=Where(where), why=why, hint=hint) from None


def complete(module: Any, report: Mapping[str, Any], where: str) -> Any:
    """The module, where every weight came from the files. Otherwise some were made up, and scores would mean nothing."""
    wrong = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in report.get(kind, ()))
    if not wrong:
        return module
    why = f"{', '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''} would be random"
    hint = "a task of labels needs a model with a classification head, one of text a language model"
    raise CheckpointError(f"a {type(module).__name__} cannot be made of it", where=Where(where), why=why, hint=hint)


def check_transformers(what: str = "evaluation") -> None:
    """Say that transformers is missing before anything is read; a plain install leaves it out. Raises RecipeError."""
    if find_spec("transformers") is None:
        raise RecipeError(
            f"{what} needs transformers", hint="pip install 'mergery[models]', or pip install transformers"
        )


def family_of(head: Head) -> Any:
    """The class of transformers that knows all models with a head."""
    check_transformers()
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    return AutoModelForSequenceClassification if head == "labels" else AutoModelForCausalLM


def class_for(config: Any, head: Head) -> Any:
    """The class of transformers for models of a config with a head. Raises CheckpointError where it knows none."""
    known = family_of(head)._model_mapping
    if type(config) not in known:
        raise CheckpointError(f"{type(config).__name__} models have no {head} head in transformers", hint=FITTING[head])
    found = known[type(config)]
    return found[0] if isinstance(found, (list, tuple)) else found


def tokenizer_of(given: Any, folder: Path) -> Any:
    """The tokenizer that was given, as it is or as a folder; else that of the model's folder."""
    from transformers import AutoTokenizer

    if given is not None and not isinstance(given, (str, Path)):
        return given
    place = Path(given or folder)
    where, hint = Where(str(place)), "put its files there, or say --tokenizer FOLDER where the command has it"
    without = not any(any(place.glob(pattern)) for pattern in VOCABULARIES)
    why = f"none of {', '.join(VOCABULARIES)} is there"
    nameless = place.is_dir() and not (place / "tokenizer_config.json").exists()
    if without and nameless:  # transformers would make up one of no tokens
        raise CheckpointError("there is no tokenizer", where=where, why=why, hint=hint)
    try:
        return read_with(AutoTokenizer, str(given or folder), str(given or folder))
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
    ) as error:  # whatever its files make transformers do
        if without:
            raise CheckpointError("there is no tokenizer", where=where, why=why, hint=hint) from None
        why = " ".join(str(error).split()) or type(error).__name__
        raise CheckpointError("transformers cannot read this tokenizer", where=where, why=why, hint=hint) from None


def assembled(state: Mapping[str, Any], folder: Path, head: Head, dtype: str, name: str) -> Any:
    """A transformers model of a state dict. It is built on the meta device and given the tensors."""
    from transformers import AutoConfig

    config = read_with(AutoConfig, str(folder), name)
    module, report = class_for(config, head).from_pretrained(
        None, config=config, state_dict=dict(state), dtype=dtype_of(dtype), output_loading_info=True
    )
    return complete(module, report, name)


def model_of(state: Mapping[str, Any], files: Mapping[str, bytes], dtype: str) -> Any:
    """A transformers model of a merged state dict and the small files beside it, in eval mode, with nothing made up."""
    check_transformers("a transformers model of a merge")
    import transformers

    if "config.json" not in files:
        hint = "merge folders or transformers models, or leave out as_model and load the state dict yourself"
        raise CheckpointError("the merged model has no config", why="none of its models brings one", hint=hint)
    with tempfile.TemporaryDirectory(prefix="mergery-") as folder:
        for name, content in files.items():
            if name.endswith("config.json"):
                Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
                Path(folder, name).write_bytes(content)
        config = read_with(transformers.AutoConfig, folder, "the merged model")
        names = getattr(config, "architectures", None) or [None]
        family: Any = getattr(transformers, str(names[0]), None)
        if family is None:
            known = transformers.AutoModelForCausalLM._model_mapping
            family = known[type(config)] if type(config) in known else transformers.AutoModel  # noqa: SIM401 - lazy
        with quiet():
            module, report = family.from_pretrained(
                None, config=config, state_dict=dict(state), dtype=dtype_of(dtype), output_loading_info=True
            )
        complete(module, report, "the merged model")
        if "generation_config.json" in files and hasattr(module, "generation_config"):
            module.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return module


def dtype_of(name: str) -> Any:
    import torch

    return name if name == "auto" else getattr(torch, name)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own bars and reports off the terminal; what they tell is checked here."""
    from transformers.utils import logging as shown

    level, bars = shown.get_verbosity(), shown.is_progress_bar_enabled()
    shown.set_verbosity_error()
    shown.disable_progress_bar()
    try:
        with without_kernels():
            yield
    finally:
        shown.set_verbosity(level)
        if bars:
            shown.enable_progress_bar()


@contextmanager
def without_kernels() -> Iterator[None]:
    """Leave unsaid that bitsandbytes has no kernels for products of four-bit matrices, which nothing here computes.

    It says so when it is loaded, as peft and accelerate do where it is installed. All else that it says is said.
    """
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    logger.addFilter(_of_other_matters)
    try:
        yield
    finally:
        logger.removeFilter(_of_other_matters)


def _of_other_matters(record: logging.LogRecord) -> bool:
    return "gemm_4bit_forward from kernels-community" not in record.getMessage()
