"""Where workers compute."""

from __future__ import annotations

from collections.abc import Sequence

from mergery.kernels.devices import find_devices


def devices_of(given: Sequence[str], wanted: str) -> tuple[str, ...]:
    """Devices for workers to take in turn: what they are given, else what the evaluation says; `auto` is all GPUs."""
    if not given and wanted != "auto":
        return (wanted,)
    return tuple(device.name for each in given or ("auto",) for device in find_devices(each))
