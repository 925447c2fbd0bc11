"""Where the arithmetic is done: the processor, or GPUs. Loads torch only where a GPU is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mergery.errors import PlanError, RecipeError
from mergery.kernels import BLOCK, SLICE, kernels

if TYPE_CHECKING:
    import torch

WORDS = "cpu, cuda, cuda:0, cuda:1, ..., or auto"
WINDOW = 4 * SLICE  # bytes of float32 that the rows of one window for a GPU take, about
ROWS = 4 << 20  # elements that the rows of one window for the processor take, about: they stay in its cache
WORKERS = 4  # for each GPU: while one waits for the disk, the others keep it busy
TEMPORARIES = 8  # float32 tensors of a slice's size that a kernel holds for each row, on both lanes together


@dataclass(frozen=True)
class Device:
    """The processor. `kind` is what a journal and a lock record: the last bit of a result may differ between kinds."""

    name: str = "cpu"

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]

    @property
    def place(self) -> torch.device | None:
        """Where a method's tensors stand; None is the processor's memory."""
        return None

    def kernels(self) -> Any:
        """The kernels for one worker."""
        return kernels()

    def empty(self, nbytes: int) -> np.ndarray:
        """A worker's buffer in the processor's memory: uint8 (nbytes,)."""
        return np.empty(nbytes, dtype=np.uint8)

    def window(self, chunk: int, rows: int) -> int:
        """Elements of a window, of which the user wants `chunk`: fewer of many models."""
        return min(chunk, max(BLOCK, ROWS // max(1, rows) // BLOCK * BLOCK))

    @property
    def memory(self) -> int:
        """Bytes that one worker's kernels take on the device itself, about."""
        return 0


@dataclass(frozen=True)
class TorchDevice(Device):
    """A device of torch. Windows are some megabytes at least, in pinned buffers where the device is a GPU."""

    @property
    def place(self) -> torch.device:
        import torch

        return torch.device(self.name if self.kind == "cuda" else "cpu")

    def kernels(self) -> Any:
        from mergery.kernels.device import DeviceKernels

        return DeviceKernels(self.place)

    def empty(self, nbytes: int) -> np.ndarray:
        import torch

        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=self.kind == "cuda").numpy()

    def window(self, chunk: int, rows: int) -> int:
        return max(chunk, WINDOW // (4 * max(1, rows)) // BLOCK * BLOCK)

    @property
    def memory(self) -> int:
        lanes = 2 * 2  # stored rows of up to 8 bytes
        return SLICE * (lanes + TEMPORARIES)


CPU = Device()


def find_devices(asked: str) -> tuple[Device, ...]:
    """The devices that `cpu`, `cuda` (all), `cuda:1` or `auto` mean.

    Raises RecipeError for another word, and PlanError, which lists what there is, for a device that is not there. `auto` is
    all GPUs, or the processor where there is none.
    """
    if asked == "cpu":
        return (CPU,)
    if asked == "torch":  # the code for GPUs, on the processor: for tests
        return (TorchDevice("torch"),)
    kind, colon, number = asked.partition(":")
    if asked != "auto" and (kind != "cuda" or (colon and not (number.isascii() and number.isdigit()))):
        raise RecipeError(f"unknown device {asked!r}", hint=f"known here: {WORDS}")
    names = list_gpus()
    if asked == "auto" and not names:
        return (CPU,)
    wanted = [f"cuda:{int(number)}"] if number else list(names)
    if not wanted or wanted[0] not in names:
        raise PlanError(
            f"there is no device {asked!r}",
            why="torch finds " + (", ".join(f"{name} ({model})" for name, model in names.items()) or without_gpus()),
            hint="--device " + (f"one of {', '.join(names)}" if names else "cpu, or auto"),
        )
    return tuple(TorchDevice(name) for name in wanted)


def list_gpus() -> dict[str, str]:
    """The GPUs that torch finds, by name, with their models."""
    import torch

    if not torch.cuda.is_available():
        return {}
    return {f"cuda:{n}": torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())}


def without_gpus() -> str:
    """Why torch finds none."""
    import torch

    built = torch.version.cuda or torch.version.hip
    return "only cpu" + ("" if built else f": torch {torch.__version__} was built without CUDA")


@contextmanager
def device_errors() -> Iterator[None]:
    """Tell a GPU whose memory is full in the user's words."""
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        raise PlanError(
            "the memory of the GPU is full",
            why=str(error).strip().splitlines()[0],
            hint="what is finished is kept: give it fewer --threads, or free its memory, and run the same command again",
        ) from None
