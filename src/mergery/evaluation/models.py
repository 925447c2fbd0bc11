"""What can be evaluated: a folder, an adapter on its base, a recipe that is merged in memory, a module."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.file_kinds import WEIGHT_SUFFIXES
from mergery.checkpoints.hub.addresses import read_address
from mergery.checkpoints.json_files import parse_object
from mergery.checkpoints.nearby import near_path
from mergery.errors import CheckpointError, PlanError, RecipeError, Where
from mergery.evaluation.content import content_of, file_hash, state_hash, tokenizer_mark
from mergery.evaluation.loading import FITTING, Head, Loaded, assembled, pretrained, quiet, tokenizer_of
from mergery.evaluation.task import digest
from mergery.planning.plan import make_plan
from mergery.recipe import Recipe
from mergery.report.files import side_files
from mergery.run.events import ignore
from mergery.run.merging import merge_to_memory
from mergery.run.workers import Options

RECIPES = (".yaml", ".yml")
VIRTUAL = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT", "ADAPTION_PROMPT")


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
                f"{self.name} is a model of an encoder and a decoder",
                why="only decoders and classifiers are scored",
                hint="score it with transformers itself",
            )
        with quiet():
            return self.open(head, dtype)


def open_subject(
    source: Any, *, tokenizer: Any = None, base: str | Path | None = None, name: str | None = None
) -> Subject:
    """Say what `source` is, from headers and small files; weights are read for their hash alone.

    source:    a model folder, a GGUF file, a hub id, any with adapters on it (`model+adapter`), a PEFT adapter's folder, a
               recipe (a YAML file, a mapping or a `Recipe`), a transformers module, or a `Subject`, which is returned as it is.
    tokenizer: a tokenizer, or the folder of one, where the model brings none; a module needs it.
    base:      the folder of an adapter's base, where the adapter does not name it.

    Raises MergeryError.
    """
    if isinstance(source, Subject):
        return replace(source, name=name) if name else source
    if isinstance(source, (Recipe, Mapping)):
        return _from_recipe(source, name or "merge", tokenizer)
    if callable(getattr(source, "state_dict", None)):
        return _from_module(source, tokenizer, name)
    path = Path(source).expanduser()
    adapter = (path / "adapter_config.json").exists() and not (path / "config.json").exists()
    if base is not None and not adapter:
        check_there(source)
        what = f"{str(source)!r} is put on no base"
        raise RecipeError(
            what, why="only an adapter's folder is", hint="leave out --base, or name the adapter's folder"
        )
    if path.suffix in RECIPES:
        return _from_recipe(path, name or path.stem, tokenizer)
    if (path.suffix == ".gguf" and path.is_file()) or (not path.exists() and ("+" in str(source) or on_hub(source))):
        copy = {"models": {"model": str(source)}, "merge": {"method": "passthrough", "models": ["model"]}}
        return _from_recipe(copy, name or "+".join(map(_last, str(source).split("+"))), tokenizer)
    check_there(source)
    if adapter:
        return _from_adapter(path, name or path.name, tokenizer, base)
    return _from_folder(path, name or path.resolve().name, tokenizer)


def on_hub(source: Any) -> bool:
    """Whether a text names a model of the hub, and nothing here."""
    return not Path(source).expanduser().exists() and read_address(str(source)) is not None


def check_there(source: str | Path) -> None:
    """Refuse what leads to no model and no recipe, by its path or, of models on the hub and with adapters, their headers.

    Raises CheckpointError.
    """
    path = Path(source).expanduser()
    if path.is_dir() or (path.suffix in (*RECIPES, ".gguf") and path.is_file()):
        return
    if not path.exists() and ("+" in str(source) or on_hub(source)):
        open_checkpoint(str(source)).close()
        return
    hint = "give a model folder, MODEL+ADAPTER, an adapter's folder, a GGUF file, a hub id, or a recipe (.yaml)"
    if path.exists():
        hint = f"name the folder that it lies in: {path.parent}" if path.suffix in WEIGHT_SUFFIXES else hint
        hint = f"a task file stands behind --tasks: --tasks {source}" if path.suffix == ".jsonl" else hint
        raise CheckpointError("this is no model folder", where=Where(str(source)), hint=hint)
    near = near_path(str(source), path)
    raise CheckpointError(
        "there is no such model folder", where=Where(str(source)), hint=f"did you mean {near!r}?" if near else hint
    )


def _last(path: str) -> str:
    """What a model is called by its path."""
    last = Path(path)
    return last.stem if last.suffix in (".gguf", *WEIGHT_SUFFIXES) else last.name


# --- folders and adapters ---------------------------------------------------------------------------------------------


def _from_folder(path: Path, name: str, tokenizer: Any) -> Subject:
    with open_checkpoint(path, label=name) as checkpoint:
        config = checkpoint.config.plain()
        if not config:
            hint = "put the config.json of the model that it was trained from into the folder"
            raise CheckpointError("this model has no config.json", where=Where(str(path)), hint=hint)
        mark = content_of(checkpoint)

    def load(head: Head, dtype: str) -> Loaded:
        return Loaded(pretrained(str(path), head, dtype), tokenizer_of(tokenizer, path))

    return Subject(name, digest([mark, tokenizer_mark(tokenizer)]), config, load)


def _from_adapter(path: Path, name: str, tokenizer: Any, base: str | Path | None) -> Subject:
    file = path / "adapter_config.json"
    adapter = parse_object(file.read_bytes(), str(file))
    if str(adapter.get("peft_type")) in VIRTUAL:
        why = f"it is of type {adapter.get('peft_type')}, which adds tokens or layers"
        hint = "score it with peft"
        raise CheckpointError("this adapter cannot be scored", where=Where(str(file)), why=why, hint=hint)
    named = base or adapter.get("base_model_name_or_path") or ""
    places = [Path(str(named)).expanduser(), path / str(named)]
    found = next((place for place in places if named and place.is_dir()), None)
    if found is None:
        why = f"it names {named!r}, which is no folder here" if named else "its config names none"
        raise CheckpointError("the adapter's base is not here", where=Where(str(file)), why=why, hint="--base FOLDER")
    below = _from_folder(found, found.name, tokenizer)
    files = sorted(entry for entry in path.iterdir() if entry.is_file() and entry.name != "README.md")
    mark = [[entry.name, file_hash(entry)] for entry in files]
    own = path if (path / "tokenizer_config.json").exists() else found

    def load(head: Head, dtype: str) -> Loaded:
        try:
            from peft import PeftModel
        except ImportError:
            raise RecipeError("adapters need peft", hint="pip install 'mergery[peft]'") from None
        # A head that the adapter itself brings may be missing in its base.
        task = str(adapter.get("task_type"))
        module = pretrained(str(found), head, dtype, whole=task != "SEQ_CLS")
        with warnings.catch_warnings():  # of transformers, about what peft asks it
            warnings.simplefilter("ignore", FutureWarning)
            adapted = PeftModel.from_pretrained(module, str(path))
        return Loaded(adapted, tokenizer_of(tokenizer, own))

    return Subject(name, digest([below.fingerprint, mark]), below.config, load)


# --- memory -----------------------------------------------------------------------------------------------------------


def _from_recipe(recipe: Recipe | Path | Mapping[str, Any], name: str, tokenizer: Any) -> Subject:
    plan = make_plan(recipe)
    try:
        if plan.adapter is not None:
            hint = "leave out output: adapter, or write the adapter and evaluate that"
            raise PlanError("this recipe makes an adapter, not a model", hint=hint)
        if not plan.config:
            why, hint = "none of its models brings a config.json", "name one of them by a folder that has it"
            raise PlanError("the merged model has no config", why=why, hint=hint)
        config, files = plan.config.plain(), side_files(plan)
        mark = [plan.digest, {label: content_of(checkpoint) for label, checkpoint in plan.checkpoints.items()}]
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
            return Loaded(assembled(merged, Path(folder), head, dtype, name), tokenizer_of(tokenizer, Path(folder)))

    return Subject(name, digest([mark, tokenizer_mark(tokenizer)]), config, load)


def _from_module(module: Any, tokenizer: Any, name: str | None) -> Subject:
    if getattr(module, "config", None) is None or not callable(getattr(module.config, "to_dict", None)):
        raise CheckpointError(f"a {type(module).__name__} has no config", hint="give a transformers model")
    if tokenizer is None:
        raise CheckpointError("a module needs a tokenizer", hint="evaluate(model, tasks, tokenizer=tokenizer)")
    config = module.config.to_dict()
    mark = [state_hash(module.state_dict()), digest(json.loads(json.dumps(config, default=str)))]

    def load(head: Head, dtype: str) -> Loaded:
        labels = hasattr(module, "classifier") or hasattr(module, "score")
        if (head == "labels") != labels:
            raise CheckpointError(f"a {type(module).__name__} has no {head} head", hint=FITTING[head])
        return Loaded(module, tokenizer_of(tokenizer, Path()))

    return Subject(name or type(module).__name__, digest([mark, tokenizer_mark(tokenizer)]), config, load)
