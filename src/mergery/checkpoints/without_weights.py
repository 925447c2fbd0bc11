"""What a folder without weights that can be read is in truth, and what leads on. Decided from names alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from mergery.checkpoints.file_kinds import CONFIG, WEIGHT_SUFFIXES, is_weight_file, other_form
from mergery.errors import CheckpointError, Where

EXPECTED = "a model folder holds model.safetensors or pytorch_model.bin, or the index of their shards"


def explain_no_weights(names: Collection[str], where: str) -> CheckpointError:
    """The error for a folder of these files, folders within included; `where` is what messages call it."""
    top = {name.partition("/")[0]: "/" in name for name in names}
    files = [name for name, folder in top.items() if not folder]
    found = (
        _pipeline(names, files, where)
        or deepspeed_pieces(names, where)
        or _distributed(names, where)
        or _folder_for_file(top, where)
        or _other_form(files, where)
        or _inner(names, where)
    )
    if found is not None:
        return found
    here = f"; here: {', '.join(sorted(top)[:5])}" if top else "; this one is empty"
    hint = "check that the download is complete, or name the folder or the file that holds the weights"
    return CheckpointError("no weights here", where=Where(where), why=EXPECTED + here, hint=hint)


def _pipeline(names: Collection[str], files: Collection[str], where: str) -> CheckpointError | None:
    if "model_index.json" not in files:
        return None
    parts = list(_with_weights(names))
    whole = [name for name in files if is_weight_file(name)]
    if whole:
        why = f"{', '.join(sorted(whole)[:3])} beside it hold all of it in one file"
    else:
        why = f"its parts are models of their own: {', '.join(parts)}" if parts else "model_index.json says so"
    chosen = next((part for part in parts if part in ("unet", "transformer")), parts[0] if parts else "unet")
    hint = f"merge part by part, each by its own recipe, such as {where}/{chosen}"
    if whole:
        hint += f", or name the file: {where}/{min(whole)}"
    return CheckpointError("this is a pipeline of diffusers, not one model", where=Where(where), why=why, hint=hint)


def deepspeed_pieces(names: Collection[str], where: str) -> CheckpointError | None:
    """The error for weights that DeepSpeed left in pieces; None where the folder holds no such pieces.

    Beside them a weight file may stand whose tensors are empty.
    """
    top = {name.partition("/")[0] for name in names}
    steps = [name for name in top if re.fullmatch(r"global_step\d+", name)]
    pieces = [name for name in names if name.endswith(("_model_states.pt", "_optim_states.pt"))]
    if not steps and not pieces and "zero_to_fp32.py" not in top:
        return None
    place = f"in {', '.join(sorted(steps)[:3])}" if steps else "in pieces, one for each process"
    script = "zero_to_fp32.py" if "zero_to_fp32.py" in top else "-m deepspeed.utils.zero_to_fp32"
    folder = where if steps or "zero_to_fp32.py" in top else where.rpartition("/")[0] or ".."
    states = [name for name in pieces if name.endswith("_model_states.pt")]
    whole = len(states) == 1 and states[0].rpartition("/")[2].startswith("mp_rank_00")  # stages 1 and 2 of ZeRO
    or_else = f"; in {states[0]} they lie whole, in the dtype of the training: name that file" if whole else ""
    return CheckpointError(
        "the weights are in DeepSpeed's own form",
        where=Where(where),
        why=f"training left them {place}",
        hint=f"run `python {script} . merged` in {folder}, and name the folder merged{or_else}",
    )


def _distributed(names: Collection[str], where: str) -> CheckpointError | None:
    pieces = sorted(name for name in names if name.endswith(".distcp") and not name.startswith("optimizer"))
    if not pieces:
        return None
    inner = pieces[0].rpartition("/")[0]
    place = f"{where}/{inner}" if inner else where
    return CheckpointError(
        "the weights are in pieces, as FSDP saves them",
        where=Where(where),
        why=f"{inner or 'this folder'} holds {len(pieces)} .distcp file{'s' if len(pieces) > 1 else ''}",
        hint=f"run `accelerate merge-weights {place} merged`, and name the folder merged",
    )


def _folder_for_file(top: dict[str, bool], where: str) -> CheckpointError | None:
    """`zero_to_fp32.py` that is given the name of a file makes a folder of that name."""
    named = [name for name, folder in top.items() if folder and name.endswith(WEIGHT_SUFFIXES)]
    if not named:
        return None
    why = "some tools make a folder where they are given the name of a file"
    hint = f"name it: {where}/{named[0]}"
    return CheckpointError(f"{named[0]} is a folder here, not a file", where=Where(where), why=why, hint=hint)


def _other_form(files: Collection[str], where: str) -> CheckpointError | None:
    found = {name: form for name in sorted(files) if (form := other_form(name))}
    if not found:
        return None
    name, form = next(iter(found.items()))
    if form == "GGUF":
        return _gguf([each for each, other in found.items() if other == form], where)
    return unread_form(form, where, f"the only weights here are {name}")


def _gguf(names: list[str], where: str) -> CheckpointError:
    """A folder may hold several quantisations of one model; which is meant, only the user knows."""
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    what, hint = "the weights here are in GGUF", f"name a file: {where}/{names[0]}"
    if "@" in where and not Path(where).is_dir():  # on the hub
        repo = where.partition("@")[0]
        hint = f"download the one that you want, and name it: hf download {repo} {names[0]} --local-dir ."
    return CheckpointError(what, where=Where(where), why=f"here: {shown}", hint=hint)


def unread_form(form: str, where: str, why: str = "") -> CheckpointError:
    """The error for weights in a form that is not read."""
    hint = "use the model's safetensors"
    if form == "GGML":
        why = f"{why + ': ' if why else ''}numbers packed for an old llama.cpp, before GGUF"
        hint = "use the model's safetensors, from which the file was made"
    if form in ("TensorFlow", "Flax"):
        hint = "use the model's safetensors, or convert it: transformers before 5 loads it with from_tf=True or from_flax=True"
    return CheckpointError(f"{form} files cannot be merged", where=Where(where), why=why, hint=hint)


def _inner(names: Collection[str], where: str) -> CheckpointError | None:
    """A run's folder holds the model one level down; say so rather than that there are no weights."""
    configs = {name.rpartition("/")[0] for name in names if name.endswith(f"/{CONFIG}")}
    weights = set(_with_weights(names))
    models = sorted(configs or weights, key=_natural)
    if not models:
        return None
    shown = ", ".join(models[:5]) + (f" and {len(models) - 5} more" if len(models) > 5 else "")
    why = f"these hold {'a config.json' if configs else 'weights'}: {shown}"
    hint = f"name one of them: {where}/{models[-1]}"
    return CheckpointError("no weights here, but in folders within", where=Where(where), why=why, hint=hint)


def _with_weights(names: Collection[str]) -> Iterator[str]:
    """The folders within that hold weights."""
    seen: set[str] = set()
    for name in names:
        folder, _, file = name.rpartition("/")
        if folder and folder not in seen and (is_weight_file(file) or file.endswith(".index.json")):
            seen.add(folder)
            yield folder


def _natural(name: str) -> list[tuple[int, str]]:
    """Sorts checkpoint-900 before checkpoint-1000."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
