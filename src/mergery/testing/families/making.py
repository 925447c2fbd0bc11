"""Makes tiny models, fine-tunes of them, and loads what was merged."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mergery.testing.families.table import Family

FILE = "model.safetensors"


def make(family: Family, folder: Path, seed: int = 0) -> Path:
    """Write a random tiny model of a family, as transformers writes it, or as files with the names that it publishes."""
    if not family.auto:
        from mergery.testing.families.published import write

        return write(family, folder, seed)
    build(family, seed).save_pretrained(folder)
    return perturb(folder, folder, seed, 0.05)


def build(family: Family, seed: int = 0) -> Any:
    """A tiny model of a family that transformers knows, as a module."""
    import torch
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    torch.manual_seed(seed)
    config = CONFIG_MAPPING[family.kind](**family.config)
    return getattr(transformers, family.auto).from_config(config, dtype=torch.float32).eval()


def fine_tune(base: Path, folder: Path, seed: int) -> Path:
    """A model that differs from `base` by small random steps in every floating-point tensor."""
    return perturb(base, folder, seed, 0.01)


def perturb(base: Path, folder: Path, seed: int, size: float) -> Path:
    """Add normal noise of standard deviation `size` to every floating-point tensor, by name and seed."""
    import torch
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = load_file(base / FILE)
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            key = hashlib.sha256(f"{seed} {name}".encode()).digest()[:6]
            generator = torch.Generator().manual_seed(int.from_bytes(key))
            tensors[name] = tensor + (size * torch.randn(tensor.shape, generator=generator)).to(tensor.dtype)
    save_file(tensors, folder / FILE, metadata={"format": "pt"})
    for file in base.iterdir():
        if file.suffix == ".json" and base != folder:
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def load(family: Family, folder: Path) -> tuple[Any, list[str]]:
    """The model that transformers makes of a folder, and what is wrong with it: keys, shapes, logits."""
    import torch
    import transformers

    model, found = getattr(transformers, family.auto).from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    wrong = [f"{kind.replace('_', ' ')}: {sorted(map(str, keys))[:3]}" for kind, keys in found.items() if keys]
    if not bool(torch.isfinite(logits(family, model)).all()):
        wrong.append("logits that are not finite")
    return model, wrong


def logits(family: Family, model: Any) -> Any:
    """Logits of one fixed text. Images are not shown: they come with weights of their own, which keys and shapes check."""
    import torch

    tokens = torch.arange(10, 22)[None]
    given: dict[str, Any] = {"input_ids": tokens}
    if family.inputs == "encoder-decoder":
        given["decoder_input_ids"] = tokens[:, :4]
    if family.kind == "xlstm":
        given["use_cache"] = False
    with torch.no_grad():
        return model.eval()(**given).logits


def read_config(folder: Path) -> dict[str, Any]:
    """The parsed `config.json`."""
    return json.loads((folder / "config.json").read_text())
