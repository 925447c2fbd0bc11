"""Files that hold tensors, by format.

* `safetensors`;
* `torch_files`: what `torch.save` writes, whose pickles (`pickles`) are read as data: nothing of them is run;
* `packed`: the folders of `mergery pack`, a base with what a serving method keeps of each task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mergery.checkpoints.byte_files import ByteFile
    from mergery.checkpoints.weights import WeightFile


def open_weight_file(file: ByteFile, headers: dict[str, Any] | None = None) -> WeightFile:
    """One file's headers. The name tells the format; `.safetensors` is one, all others are torch's.

    `headers` remembers what has been read: of equal headers, only the first is.
    """
    if file.name.endswith(".safetensors"):
        from mergery.checkpoints.formats.safetensors import SafetensorsFile

        return SafetensorsFile(file, headers)
    from mergery.checkpoints.formats.torch_files import open_torch_file

    return open_torch_file(file)
