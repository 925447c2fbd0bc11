"""Where in a GGUF file the tensors of a model go, and in which form."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from mergery.checkpoints.base import TensorInfo
from mergery.checkpoints.gguf.encoding import OutTensor
from mergery.checkpoints.gguf.families import DECAY, FLAT, ONE, ROTARY, Family
from mergery.checkpoints.gguf.tensors import split_name
from mergery.errors import PlanError, listed

if TYPE_CHECKING:
    import numpy as np

_SUFFIX = re.compile(r"(.+)(\.weight|\.bias)")
WHOLE = (
    "ffn_gate_inp",
    "ffn_gate_inp_shexp",
    "ssm_conv1d",
    "ssm_a",
    "ssm_d",
)  # always float32: small, and llama.cpp's rule
FINER = {"Q4_0": "Q8_0", "Q4_1": "Q8_0", "Q5_0": "Q8_0", "Q5_1": "Q8_0", "TQ1_0": "F16", "TQ2_0": "F16"}
"""The type of the head and of embeddings, where that of the rest is coarse."""


ALL = "*"
"""The number of an expert in the name of a stack of all."""


class Place(NamedTuple):
    """Where a tensor of the model goes: into a tensor of the file, from one of its elements on, changed."""

    target: str
    start: int = 0
    change: str = ""
    heads: int = 0


class Places(NamedTuple):
    """The tensors of a file, and where each tensor of the model goes. `coarse` could not be as small as was wanted."""

    tensors: tuple[OutTensor, ...]
    of: Mapping[str, Place]
    coarse: tuple[str, ...]


def place(family: Family, infos: Mapping[str, TensorInfo], heads: Mapping[str, int], wanted: str, depth: int) -> Places:
    """Where tensors with these names and shapes go. `wanted` is the type of matrices. Raises PlanError."""
    patterns = [(_pattern(ours), theirs) for ours, theirs in family.names.items()]
    of: dict[str, Place] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    experts: dict[str, set[int]] = {}
    unknown: list[str] = []
    for name, info in infos.items():
        match = _SUFFIX.fullmatch(name)
        stem, suffix = (match[1], match[2]) if match else (name, "")
        found = next(((each, theirs) for pattern, theirs in patterns if (each := pattern.fullmatch(stem))), None)
        if found is None:
            unknown.append(name)
            continue
        layer, expert = (found[0].groupdict().get(key) for key in ("i", "e"))
        target = found[1].replace("{i}", layer or "") + suffix
        leaf = found[1].rpartition(".")[2]
        change = family.changes.get(leaf, "")
        if expert is None:
            flat = change == FLAT and suffix == ".weight"
            shapes[target] = tuple(side for side in info.shape if side > 1) if flat else info.shape
            of[name] = Place(target, 0, "" if change == FLAT else change, heads.get(leaf, 0))
        elif expert == ALL:
            shapes[target], of[name] = info.shape, Place(target)
        else:
            experts.setdefault(target, set()).add(int(expert))
            shapes[target] = info.shape
            of[name] = Place(target, int(expert) * info.elements)
    if unknown:
        why = f"llama.cpp's {family.architecture} has no place for {listed(unknown)}"
        hint = "models that transformers saves have the names of their family"
        raise PlanError("this model cannot be written as GGUF", why=why, hint=hint)
    for target, numbers in experts.items():
        if numbers != set(range(len(numbers))):
            raise PlanError(
                "this model cannot be written as GGUF",
                why=f"experts are missing of {target!r}",
                hint="look for a shard that was not downloaded",
            )
        shapes[target] = (len(numbers), *shapes[target])
    _check_whole(family, shapes, depth)
    return _with_types(shapes, of, wanted)


def _pattern(template: str) -> re.Pattern[str]:
    text = re.escape(template).replace(r"\{i\}", r"(?P<i>\d+)").replace(r"\{e\}", r"(?P<e>\d+|\*)")
    return re.compile(text)


def _check_whole(family: Family, shapes: Mapping[str, tuple[int, ...]], depth: int) -> None:
    """Every layer has what the first has, and there are embeddings: llama.cpp loads nothing less."""
    layers = [{name.split(".", 2)[2] for name in shapes if name.startswith(f"blk.{layer}.")} for layer in range(depth)]
    beyond = [name for name in shapes if name.startswith("blk.") and int(name.split(".")[1]) >= depth]
    uneven = next((layer for layer, names in enumerate(layers) if names != layers[0]), None)
    why = ""
    if "token_embd.weight" not in shapes or "output_norm.weight" not in shapes:
        why = "its embeddings or its last norm are missing"
    elif uneven is not None:
        differing = sorted(layers[uneven] ^ layers[0])
        why = f"layers 0 and {uneven} differ in {listed(differing)}"
    elif beyond:
        why = f"its config speaks of {depth} layers, and it has {listed(beyond)}"
    if why:
        raise PlanError(f"this {family.kind} cannot be written as GGUF", why=why, hint="export the whole model")


def _with_types(shapes: Mapping[str, tuple[int, ...]], of: Mapping[str, Place], wanted: str) -> Places:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    kinds = {kind.name: kind for kind in GGML_QUANT_SIZES}
    tensors: list[OutTensor] = []
    coarse: list[str] = []
    for name, shape in shapes.items():
        leaf, _, _ = split_name(name)
        word = wanted
        if leaf == "output" or (leaf == "token_embd" and ("output.weight" not in shapes or wanted.startswith("TQ"))):
            word = FINER.get(wanted, wanted)
        if len(shape) < 2 or leaf in WHOLE or leaf.endswith("_norm"):
            word = "F32"
        elif shape[-1] % GGML_QUANT_SIZES[kinds[word]][0]:
            fits = wanted.startswith("Q") and shape[-1] % 32 == 0
            word = "Q8_0" if fits else "F16"
            coarse.append(name)
        tensors.append(OutTensor(name, shape, int(GGMLQuantizationType[word])))
    return Places(tuple(tensors), of, tuple(coarse))


def stored(change: str, values: np.ndarray) -> np.ndarray:
    """float32 values of transformers as llama.cpp has them, element by element."""
    import numpy as np

    if change == ONE:
        return values + np.float32(1)
    if change == DECAY:
        return -np.exp(values)
    return values


def runs(info: TensorInfo, to: Place, start: int, stop: int) -> Sequence[tuple[int, int, int]]:
    """Elements [start, stop) as ranges that stand together in the file: first, last, and the element of the target there.

    Rows that change places are a range each: row (half, i) of a head goes to its row 2 i + half.
    """
    if to.change != ROTARY:
        return [(start, stop, to.start + start)]
    width = info.elements // info.shape[0]
    head = info.shape[0] // to.heads
    half = head // 2
    found: list[tuple[int, int, int]] = []
    at = start
    while at < stop:
        row, column = divmod(at, width)
        end = min(stop, (row + 1) * width)
        inside = row % head
        target = row - inside + 2 * (inside % half) + inside // half
        found.append((at, end, target * width + column))
        at = end
    return found
