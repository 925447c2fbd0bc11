"""Each model's own answers to its texts, found once and kept in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mergery.calibration.learning.answers import logits, together
from mergery.calibration.learning.host import Host
from mergery.calibration.learning.model import WholeModel, load
from mergery.calibration.learning.objectives import Answering, Source
from mergery.calibration.model import StreamedModel
from mergery.calibration.opening import stored_view


def with_teachers(
    host: Host, merged: WholeModel, sources: Sequence[Source], objective: Answering, work: Path
) -> list[Source]:
    """The sources with their models' answers. `merged` holds one model after the other. Raises CheckpointError."""
    found: list[Source] = []
    for number, source in enumerate(sources):
        sizes = [objective.weight(row) for row in source.rows]
        starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        path = work / f"answers-{number}.npy"
        if not path.exists():
            load(merged, StreamedModel(stored_view(host.plan.checkpoints[source.model])))
            _answer(merged, source, objective, starts, path)
        found.append(replace(source, answers=np.load(path, mmap_mode="r"), starts=tuple(starts[:-1])))
    return found


def _answer(merged: WholeModel, source: Source, objective: Answering, starts: Sequence[int], path: Path) -> None:
    import torch

    unfinished = path.with_suffix(".part")
    kept = None
    with torch.no_grad(), merged.with_parameters(source.heads):
        for part in together(source.rows, range(len(source.rows)), merged.module.config):
            rows = [source.rows[number] for number in part]
            out = logits(merged.module, rows, objective.kind).float().numpy()
            if kept is None:
                shape = (starts[-1], out.shape[1])
                kept = np.lib.format.open_memmap(unfinished, "w+", np.float32, shape)
            done = 0
            for number, row in zip(part, rows, strict=True):
                size = objective.weight(row)
                kept[starts[number] : starts[number] + size] = out[done : done + size]
                done += size
    assert kept is not None
    kept.flush()
    unfinished.rename(path)
