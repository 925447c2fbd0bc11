"""Opening a model on the hub, and what is said where that fails."""

from __future__ import annotations

from typing import Any

import pytest

from mergery.checkpoints import open_checkpoint
from mergery.checkpoints.hub.checkpoint import HubCheckpoint
from mergery.errors import CheckpointError


def open_hub(source: str = "org/model", **options: Any) -> HubCheckpoint:
    checkpoint = open_checkpoint(source, **options)
    assert isinstance(checkpoint, HubCheckpoint)
    return checkpoint


def message(source: str = "org/model", **options: Any) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(source, **options)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    return str(caught.value)


SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
