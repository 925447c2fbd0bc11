"""What a fusion will take: tokens, disk, memory and time, before any weight is loaded."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mergery.alignment.fusion.options import steps_of
from mergery.alignment.fusion.preparing import Fusion, device_of
from mergery.errors import PlanError, size
from mergery.report.words import about, count
from mergery.run.estimate import machine_memory
from mergery.run.output import ROOM

SAMPLE = 1 << 18  # letters whose tokens are counted
ADAPTER = 0.02  # parameters of an adapter, as a share of the model's, about
PROBE = 768  # rows of the matrices by which the machine's speed is found
USED = 0.4  # of the speed of products of large matrices, that a model's steps come to
DTYPES = {"float64": 8, "float32": 4}  # bytes; others take two


@dataclass(frozen=True)
class Outlook:
    """What is going to be done, in numbers.

    letters, tokens, sequences: of the data, once. disk: bytes of distributions, checkpoints and the model. memory: bytes, at
    the most. seconds: of asking the teachers, and of training.
    """

    target: str
    asked: tuple[str, ...]
    letters: int
    tokens: int
    sequences: int
    steps: int
    parameters: int
    disk: int
    memory: int
    asking: float
    training: float
    warnings: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        return {**asdict(self), "asked": list(self.asked), "warnings": list(self.warnings)}

    @property
    def words(self) -> list[str]:
        """The same for a person."""
        asked = (
            f"asked: {', '.join(self.asked)}; {about(self.asking)}"
            if self.asked
            else "nobody is asked: the text alone is learnt"
        )
        return [
            f"{self.target} ({count(self.parameters)} parameters) on about {count(self.tokens)} tokens in "
            f"{count(self.sequences)} sequences: {self.steps} steps; {about(self.training)}",
            asked,
            f"{size(self.memory)} of memory, {size(self.disk)} of disk at the most",
            *(f"warning: {each}" for each in self.warnings),
        ]


def foretell(fusion: Fusion) -> Outlook:
    """What a fusion takes. Numbers of tokens come from the beginning of the data, speeds from this machine."""
    options, own = fusion.options, fusion.target
    tokens, sequences = _tokens(fusion)
    steps = steps_of(sequences, options)
    done = tokens * steps * options.batch / max(1, sequences)
    speed = _speed(device_of(options.device))
    trained = own.parameters if options.lora is None else int(ADAPTER * own.parameters)
    stored = own.parameters * DTYPES.get(own.dtype, 2)
    disk = tokens * (4 + 6 * options.top * len(fusion.asked)) + 2 * 12 * trained + stored
    wide = 4 if options.precision == "float32" else 2
    asking = sum(each.parameters for each in fusion.asked)
    most = max((wide * each.parameters for each in fusion.asked), default=0)
    backward = 6 if options.lora is None else 4
    return Outlook(
        own.name, tuple(each.name for each in fusion.asked), fusion.passages.letters, tokens, sequences, steps, own.parameters,
        disk, max(most, 4 * own.parameters + 12 * trained), 2.0 * asking * tokens / speed,
        backward * own.parameters * done / speed, tuple(fusion.warnings),
    )  # fmt: skip


def check_room(fusion: Fusion, kept: Path) -> None:
    """Refuse what this machine cannot hold, before any work. Raises PlanError."""
    own, options = fusion.target, fusion.options
    trained = own.parameters if options.lora is None else int(ADAPTER * own.parameters)
    memory = 4 * own.parameters + 12 * trained
    if device_of(options.device) == "cpu" and memory > machine_memory():
        why = (
            f"weights, gradients and AdamW's moments take {size(memory)}, and the machine has {size(machine_memory())}"
        )
        hint = "lora: 16 trains an adapter instead" if options.lora is None else "choose a smaller target"
        raise PlanError(f"{own.name} is too large to be trained here", why=why, hint=hint)
    place = kept
    while not place.exists():
        place = place.parent
    have = sum(path.stat().st_blocks * 512 for path in kept.rglob("*") if path.is_file()) if kept.exists() else 0
    wanted = foretold_disk(fusion) + ROOM
    free = shutil.disk_usage(place).free + have
    if free < wanted:
        why = f"{size(wanted)} are needed and {size(free)} are free"
        hint = "choose another disk, a smaller top, or less data (limit)"
        raise PlanError(f"the disk is too small to fuse in {str(kept.parent)!r}", why=why, hint=hint)


def foretold_disk(fusion: Fusion) -> int:
    """Bytes of the stored distributions, about."""
    tokens, _ = _tokens(fusion)
    return tokens * (4 + 6 * fusion.options.top * len(fusion.asked))


def _tokens(fusion: Fusion) -> tuple[int, int]:
    """Tokens and sequences of the data for the target, from the first of its letters."""
    letters = tokens = sequences = 0
    room = fusion.longest - len(fusion.target.cutter.before)
    for each in fusion.passages.passages:
        text = each.text[: max(0, SAMPLE - letters)]
        found = len(fusion.target.cutter.cut(text))
        letters, tokens, sequences = letters + len(text), tokens + found, sequences + -(-found // room)
        if letters >= SAMPLE:
            break
    share = fusion.passages.letters / max(1, letters)
    return round(tokens * share), max(1, round(sequences * share))


def _speed(device: str) -> float:
    """Operations a second that a model's steps come to, from one product of matrices."""
    import torch

    matrix = torch.ones((PROBE, PROBE), device=device)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])
        best = min(best, time.perf_counter() - started)
    return USED * 2.0 * PROBE**3 / max(best, 1e-6)
