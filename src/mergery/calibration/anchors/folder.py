"""Anchors as a checkpoint: a tensor for each block and model, and `anchors.json`, which says of which models they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.json_files import parse_object
from mergery.errors import CheckpointError, PlanError, Where
from mergery.run.output import partial_folder

CARD = "anchors.json"
FORMAT = 1


@dataclass(frozen=True)
class Anchors:
    """A folder of anchors, opened."""

    folder: Path
    card: Mapping[str, Any]
    checkpoint: Checkpoint

    @property
    def whole(self) -> bool:
        """Whether they are inputs of whole blocks, not of MLPs."""
        return bool(self.card["whole"])

    @property
    def tokens(self) -> int:
        """Of each anchor, where blocks are whole."""
        return int(self.card["options"]["tokens"])

    def of(self, block: str, model: str) -> Any:
        """The anchors of a block for a model: float32 (anchors, tokens, width), or (anchors, width)."""
        import torch

        name = f"{block}.{model}.anchors"
        info = self.checkpoint.tensors.get(name)
        if info is None:
            what, where = f"these anchors have no {name!r}", Where(self.checkpoint.location)
            raise CheckpointError(what, where=where, hint="find them anew, for these models")
        values = np.empty(info.elements, np.float32)
        self.checkpoint.read(name, 0, info.elements, values.view(np.uint8))
        return torch.from_numpy(values.reshape(info.shape))

    def check(self, marks: Mapping[str, Any]) -> None:
        """Raises CheckpointError unless they are of the models that the marks tell."""
        if json.loads(json.dumps(marks)) != self.card["models"]:
            why = f"they are of {', '.join(self.card['models'])}"
            raise CheckpointError(
                "these are anchors of other models", where=Where(str(self.folder)), why=why, hint="find them anew"
            )


@contextmanager
def open_anchors(path: str | Path) -> Iterator[Anchors]:
    """Open a folder that `mergery anchors` wrote. Raises CheckpointError."""
    folder = Path(path).expanduser()
    card = folder / CARD
    if not card.is_file():
        hint = "name a folder that `mergery anchors` wrote"
        raise CheckpointError("these are no anchors", where=Where(str(folder)), hint=hint)
    said = parse_object(card.read_bytes(), str(card))
    if said.get("format") != FORMAT or not {"whole", "models", "blocks", "options", "losses"} <= said.keys():
        raise CheckpointError(f"this {CARD} cannot be read", where=Where(str(card)), hint="find the anchors anew")
    with open_checkpoint(folder) as checkpoint:
        yield Anchors(folder, said, checkpoint)


def is_there(place: Path, card: Mapping[str, Any]) -> bool:
    """Whether a folder holds the anchors of a card already."""
    file = place / CARD
    if not file.is_file():
        return False
    said = parse_object(file.read_bytes(), str(file))
    return {name: value for name, value in said.items() if name != "losses"} == json.loads(json.dumps(card))


# --- folders under way --------------------------------------------------------------------------------------------------


def begin(place: Path, card: Mapping[str, Any]) -> Path:
    """The folder of an unfinished run: a new one, or that of an earlier run for the same anchors."""
    return resumed(partial_folder(place), CARD, json.dumps(card, indent=1) + "\n")


def resumed(partial: Path, file: str, text: str) -> Path:
    """A folder for work that can be interrupted: as it was left where its file holds this text, else a new one."""
    if partial.exists():
        kept = partial / file
        if not kept.exists():
            raise PlanError(f"{str(partial)!r} stands in the way", hint="rename it, or choose another folder")
        if kept.read_text() == text:
            return partial
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    (partial / file).write_text(text)
    return partial


def write(path: Path, arrays: Mapping[str, np.ndarray], losses: list[float]) -> None:
    """A weight file, whole or not at all, with a loss at the beginning and at the end."""
    from safetensors.numpy import save_file

    unfinished = path.with_suffix(".part")
    metadata = {"loss": json.dumps(losses)}  # one key: of several, safetensors writes another first each time
    save_file({name: np.ascontiguousarray(value) for name, value in arrays.items()}, unfinished, metadata)
    unfinished.rename(path)


def losses_of(path: Path) -> list[float]:
    """What `write` kept beside the arrays."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return json.loads(file.metadata()["loss"])


def is_empty(path: Path) -> bool:
    """Whether `write` was given no arrays."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return not file.keys()


def finish(partial: Path, place: Path, card: Mapping[str, Any]) -> None:
    """Give the folder its index and its name."""
    files = sorted(partial.glob("*.safetensors"))
    weight_map = {}
    for number, path in enumerate(files, 1):
        name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
        weight_map[f"{path.name.removesuffix('.safetensors')}.anchors"] = name
        path.rename(partial / name)
    index = {"metadata": {}, "weight_map": weight_map}
    (partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    (partial / CARD).write_text(json.dumps(card, indent=1) + "\n")
    if place.exists():
        place.rmdir()
    partial.rename(place)
