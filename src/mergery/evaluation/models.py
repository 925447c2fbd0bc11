"""What can be evaluated: a folder, an adapter on its base, a recipe that is merged in memory, a module."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mergery.errors import CheckpointError, PlanError, RecipeError, Where
from mergery.evaluation.options import DTYPES
from mergery.evaluation.task import digest

if TYPE_CHECKING:
    from mergery.checkpoints import Checkpoint
    from mergery.recipe import Recipe

Head = Literal["language", "labels"]
RECIPES = (".yaml", ".yml")
VIRTUAL = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "ADAPTION_PROMPT")


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
        text = getattr(self.config, "text_config", None) or self.config
        for key in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):
            if isinstance(getattr(text, key, None), int):
                return getattr(text, key)
        return 2048


@dataclass(frozen=True)
class Subject:
    """A model to evaluate: known by name and content, loaded when it is needed."""

    name: str
    fingerprint: str  # a hash of the content: weights, config, tokenizer
    config: Mapping[str, Any]
    open: Callable[[Head, str], Loaded]  # of a head and a dtype

    def load(self, head: Head, dtype: str = "float32") -> Loaded:
        """The model in memory. Raises CheckpointError where its weights are not all there."""
        if self.config.get("is_encoder_decoder"):
            raise CheckpointError(
                f"{self.name} is a model of an encoder and a decoder", why="only decoders and classifiers are scored"
            )
        with quiet():
            return self.open(head, dtype)


def open_subject(
    source: Any, *, tokenizer: Any = None, base: str | Path | None = None, name: str | None = None
) -> Subject:
    """Say what `source` is, from headers and small files; weights are read for their hash alone.

    source:    a model folder, a PEFT adapter's folder, a recipe (a YAML file, a mapping or a `Recipe`), a transformers
               module, or a `Subject`, which is returned as it is.
    tokenizer: a tokenizer, or the folder of one, where the model brings none; a module needs it.
    base:      the folder of an adapter's base, where the adapter does not name it.

    Raises MergeryError.
    """
    from mergery.recipe import Recipe

    if isinstance(source, Subject):
        return replace(source, name=name) if name else source
    if isinstance(source, (Recipe, Mapping)):
        return _from_recipe(source, name or "merge", tokenizer)
    if callable(getattr(source, "state_dict", None)):
        return _from_module(source, tokenizer, name)
    path = Path(source).expanduser()
    if path.suffix in RECIPES:
        return _from_recipe(path, name or path.stem, tokenizer)
    if not path.is_dir():
        hint = "give a model folder, an adapter's folder, or a recipe (.yaml)"
        raise CheckpointError("there is no such model folder", where=Where(str(source)), hint=hint)
    if (path / "adapter_config.json").exists() and not (path / "config.json").exists():
        return _from_adapter(path, name or path.name, tokenizer, base)
    return _from_folder(path, name or path.resolve().name, tokenizer)


# --- folders and adapters ---------------------------------------------------------------------------------------------


def _from_folder(path: Path, name: str, tokenizer: Any) -> Subject:
    from mergery.checkpoints import open_checkpoint

    with open_checkpoint(path, label=name) as checkpoint:
        config, mark = _config_of(checkpoint, path), _content(checkpoint)

    def load(head: Head, dtype: str) -> Loaded:
        return Loaded(_pretrained(str(path), config, head, dtype), _tokenizer(tokenizer, path))

    return Subject(name, digest([mark, _tokenizer_mark(tokenizer)]), config, load)


def _from_adapter(path: Path, name: str, tokenizer: Any, base: str | Path | None) -> Subject:
    from mergery.checkpoints.json_files import parse_object

    file = path / "adapter_config.json"
    adapter = parse_object(file.read_bytes(), str(file))
    if str(adapter.get("peft_type")) in VIRTUAL:
        why = f"it is of type {adapter.get('peft_type')}, which adds tokens or layers"
        raise CheckpointError("this adapter cannot be scored", where=Where(str(file)), why=why)
    named = base or adapter.get("base_model_name_or_path") or ""
    places = [Path(str(named)).expanduser(), path / str(named)]
    found = next((place for place in places if named and place.is_dir()), None)
    if found is None:
        why = f"it names {named!r}, which is no folder here" if named else "its config names none"
        raise CheckpointError("the adapter's base is not here", where=Where(str(file)), why=why, hint="--base FOLDER")
    below = _from_folder(found, found.name, tokenizer)
    files = sorted(entry for entry in path.iterdir() if entry.is_file() and entry.name != "README.md")
    mark = [[entry.name, _hash_file(entry)] for entry in files]
    own = path if (path / "tokenizer_config.json").exists() else found

    def load(head: Head, dtype: str) -> Loaded:
        try:
            from peft import PeftModel
        except ImportError:
            raise RecipeError("adapters need peft", hint="pip install 'mergery[peft]'") from None
        # A head that the adapter itself brings may be missing in its base.
        task = str(adapter.get("task_type"))
        module = _pretrained(str(found), below.config, head, dtype, whole=task != "SEQ_CLS")
        with warnings.catch_warnings():  # of transformers, about what peft asks it
            warnings.simplefilter("ignore", FutureWarning)
            adapted = PeftModel.from_pretrained(module, str(path))
        return Loaded(adapted, _tokenizer(tokenizer, own))

    return Subject(name, digest([below.fingerprint, mark]), below.config, load)


# --- memory -----------------------------------------------------------------------------------------------------------


def _from_recipe(recipe: Recipe | Path | Mapping[str, Any], name: str, tokenizer: Any) -> Subject:
    from mergery.planning.plan import make_plan
    from mergery.report.files import side_files
    from mergery.run.events import ignore
    from mergery.run.merging import merge_to_memory
    from mergery.run.workers import Options

    plan = make_plan(recipe)
    try:
        if not plan.config:
            raise PlanError("the merged model has no config", why="none of its models brings a config.json")
        config, files = plan.config.plain(), side_files(plan)
        mark = [plan.digest, {label: _content(checkpoint) for label, checkpoint in plan.checkpoints.items()}]
    finally:
        plan.close()

    def load(head: Head, dtype: str) -> Loaded:
        again = make_plan(recipe)
        try:
            if again.digest != plan.digest:
                raise PlanError(f"the models of {name} have changed since they were looked at", hint="evaluate again")
            merged = merge_to_memory(again, Options(), ignore)
        finally:
            again.close()
        with tempfile.TemporaryDirectory(prefix="mergery-") as folder:  # of small files: the weights stay in memory
            for file, content in files.items():
                place = Path(folder, file)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
            return Loaded(_assembled(merged, Path(folder), head, dtype, name), _tokenizer(tokenizer, Path(folder)))

    return Subject(name, digest([mark, _tokenizer_mark(tokenizer)]), config, load)


def _assembled(state: Mapping[str, Any], folder: Path, head: Head, dtype: str, name: str) -> Any:
    """A transformers model of a state dict. It is built on the meta device and given the tensors."""
    from transformers import AutoConfig

    config = _loaded(AutoConfig, str(folder), name)
    known = _family(head)._model_mapping
    if type(config) not in known:
        raise CheckpointError(f"{type(config).__name__} models have no {head} head in transformers")
    found = known[type(config)]
    found = found[0] if isinstance(found, (list, tuple)) else found
    module, report = found.from_pretrained(
        None, config=config, state_dict=dict(state), dtype=_dtype(dtype), output_loading_info=True
    )
    return _whole(module, report, name)


def _from_module(module: Any, tokenizer: Any, name: str | None) -> Subject:
    if getattr(module, "config", None) is None or not callable(getattr(module.config, "to_dict", None)):
        raise CheckpointError(f"a {type(module).__name__} has no config", hint="give a transformers model")
    if tokenizer is None:
        raise CheckpointError("a module needs a tokenizer", hint="evaluate(model, tasks, tokenizer=tokenizer)")
    config = module.config.to_dict()
    mark = [_hash_state(module.state_dict()), digest(json.loads(json.dumps(config, default=str)))]

    def load(head: Head, dtype: str) -> Loaded:
        labels = hasattr(module, "classifier") or hasattr(module, "score")
        if (head == "labels") != labels:
            raise CheckpointError(f"a {type(module).__name__} has no {head} head")
        return Loaded(module, _tokenizer(tokenizer, Path()))

    return Subject(name or type(module).__name__, digest([mark, _tokenizer_mark(tokenizer)]), config, load)


# --- parts ------------------------------------------------------------------------------------------------------------


def _pretrained(path: str, config: Mapping[str, Any], head: Head, dtype: str, *, whole: bool = True) -> Any:
    module, report = _loaded(_family(head), path, path, dtype=_dtype(dtype), output_loading_info=True)
    return _whole(module, report, path) if whole else module


def _loaded(family: Any, folder: str, where: str, **options: Any) -> Any:
    """What a class of transformers makes of a folder. Code that came with a model is not run, nor the user asked."""
    try:
        return family.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except ValueError as error:
        if "trust_remote_code" not in str(error):
            raise
        why = "code that comes with a model is never run"
        hint = "it merges as it is; to evaluate it, load it yourself and give the module"
        raise CheckpointError("transformers knows no such model", where=Where(where), why=why, hint=hint) from None


def _whole(module: Any, report: Mapping[str, Any], where: str) -> Any:
    """The module, where every weight came from the files. Otherwise some were made up, and scores would mean nothing."""
    wrong = sorted(str(key) for kind in ("missing_keys", "mismatched_keys") for key in report.get(kind, ()))
    if not wrong:
        return module
    why = f"{', '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''} would be random"
    hint = "a task of labels needs a model with a classification head, one of text a language model"
    raise CheckpointError(f"a {type(module).__name__} cannot be made of it", where=Where(where), why=why, hint=hint)


def _family(head: Head) -> Any:
    try:
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification
    except ImportError:
        raise RecipeError("evaluation needs transformers", hint="pip install 'mergery[models]'") from None
    return AutoModelForSequenceClassification if head == "labels" else AutoModelForCausalLM


def _tokenizer(given: Any, folder: Path) -> Any:
    from transformers import AutoTokenizer

    if given is not None and not isinstance(given, (str, Path)):
        return given
    try:
        return _loaded(AutoTokenizer, str(given or folder), str(given or folder))
    except (OSError, ValueError) as error:
        why = str(error).splitlines()[0]
        raise CheckpointError(
            "there is no tokenizer", where=Where(str(given or folder)), why=why, hint="--tokenizer FOLDER"
        ) from None


def _tokenizer_mark(given: Any) -> Any:
    """What tells a tokenizer that was given apart from another."""
    if given is None:
        return None
    if isinstance(given, (str, Path)):
        return [[entry.name, _hash_file(entry)] for entry in sorted(Path(given).glob("*token*")) if entry.is_file()]
    state = given.backend_tokenizer.to_str() if hasattr(given, "backend_tokenizer") else repr(given)
    return digest([state, str(getattr(given, "chat_template", None)), str(given.special_tokens_map)])


def _config_of(checkpoint: Checkpoint, path: Path) -> dict[str, Any]:
    if not checkpoint.config:
        raise CheckpointError("this model has no config.json", where=Where(str(path)))
    return checkpoint.config.plain()


def _content(checkpoint: Checkpoint) -> Any:
    """What tells a model apart from any other: hashes of weights, config and the files beside them."""
    hashed = getattr(checkpoint, "hash_contents", None)
    if hashed is not None:
        files = [name for name in checkpoint.files if name != "README.md"]
        return [hashed(), digest(checkpoint.config.plain()), [[name, checkpoint.file(name).hex()] for name in files]]
    fingerprint = checkpoint.fingerprint()
    if "commit" in fingerprint:
        return fingerprint
    import hashlib

    import numpy as np

    whole = hashlib.sha256()
    for name, info in checkpoint.tensors.items():
        whole.update(f"{name!r}{info.shape}{info.dtype.name}".encode())
        data = np.empty(info.nbytes, np.uint8)
        checkpoint.read(name, 0, info.elements, data)
        whole.update(data.data)
    return whole.hexdigest()


def _hash_state(state: Mapping[str, Any]) -> str:
    from mergery.checkpoints.memory import MemoryCheckpoint

    return _content(MemoryCheckpoint(state))


def _hash_file(path: Path) -> str:
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _dtype(name: str) -> Any:
    import torch

    if name not in DTYPES:
        raise RecipeError(f"unknown dtype {name!r}", hint=f"one of {', '.join(DTYPES)}")
    return name if name == "auto" else getattr(torch, name)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' own bars and reports off the terminal; what they tell is checked here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
