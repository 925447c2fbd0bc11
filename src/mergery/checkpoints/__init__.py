"""Checkpoints: named tensors that are read by slice, wherever they stand.

* `base`: what a checkpoint is; `config`: what its `config.json` states;
* `opening`: from what a user names to a checkpoint: a folder (`folder`), a weight file (`formats`), an id on the hub (`hub`), a
  state dict or a module (`memory`), packed models (`formats.packed`);
* `renamed`: a checkpoint under other names, such as without what torch.compile or DDP puts before them; `equality`: whether two
  tensors are equal to the byte;
* `gguf`: files of llama.cpp; `quantised`: codes that are decoded as they are read;
* `weights`: the weight files of one model, side by side; `file_names` tells which they are, `byte_files` reads their bytes;
* `tokenizer`: tokens, what they stand for, and chat templates; `json_files` reads configs and indexes.

Importing this package loads neither torch nor numpy nor the hub's client.
"""

from mergery.checkpoints.base import Checkpoint, TensorInfo
from mergery.checkpoints.config import Config
from mergery.checkpoints.opening import open_checkpoint

__all__ = ["Checkpoint", "Config", "TensorInfo", "open_checkpoint"]
