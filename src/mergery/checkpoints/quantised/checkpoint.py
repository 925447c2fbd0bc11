"""A checkpoint over a checkpoint of codes: under the names that its weights had before, decoded as they are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mergery.checkpoints.base import Checkpoint, Contents, TensorInfo
from mergery.checkpoints.config import Config, without_scheme
from mergery.checkpoints.quantised.codes import find_codes
from mergery.checkpoints.quantised.decoders import Decoder, Stored
from mergery.checkpoints.quantised.schemes import AWQ, BESIDE, MARKS, WORDS, find_decoders
from mergery.checkpoints.quantised.turned import Awq
from mergery.checkpoints.weights import byte_view
from mergery.dtypes import BY_TORCH, DType

if TYPE_CHECKING:
    import numpy as np


SAID = "recipe.yaml"  # beside the weights, of what llm-compressor has done
SMOOTHING = {"AWQModifier": AWQ, "SmoothQuantModifier": "SmoothQuant"}
PLAIN = "plain numbers"  # the headers, among those that are remembered, of models that are not quantised


def decoded(checkpoint: Checkpoint, headers: dict[str, Any] | None = None) -> Checkpoint:
    """The checkpoint itself, where its weights are plain numbers, or codes of which any is not understood; else one whose
    tensors are decoded. `headers` remembers which are plain: of equal ones, only the first are looked through.
    """
    scheme = checkpoint.config.quantisation
    known: list[Mapping[str, TensorInfo]] = [] if headers is None else headers.setdefault(PLAIN, [])
    if not scheme and any(each == checkpoint.tensors for each in known):
        return checkpoint
    if find_codes(checkpoint.tensors, declared="codes" if scheme else "") is None:
        if not scheme:
            known.append(checkpoint.tensors)
        return checkpoint
    decoders = find_decoders(checkpoint.tensors, scheme, lambda name: _whole(checkpoint, name))
    made = DecodedCheckpoint(checkpoint, decoders) if decoders else None
    return made if made is not None and find_codes(made.tensors) is None else checkpoint


def _whole(checkpoint: Checkpoint, name: str) -> bytes:
    import numpy as np

    info = checkpoint.tensors[name]
    data = np.empty(info.nbytes, np.uint8)
    checkpoint.glance(name, 0, info.elements, data)
    return data.tobytes()


class DecodedCheckpoint(Checkpoint):
    """What codes stand for. Decoded tensors are float32; they are `kept` in the dtype that the config states."""

    def __init__(self, inner: Checkpoint, decoders: Mapping[str, Decoder]) -> None:
        self.label, self.location, self._inner, self._decoders = inner.label, inner.location, inner, decoders
        self._stored = Stored(inner)
        makes = {decoder.uses[0]: decoder for decoder in decoders.values()}
        used = {name for decoder in decoders.values() for name in decoder.uses}
        self._beside = [name for name in inner.tensors if name.endswith(BESIDE) or name in MARKS]
        aside = used | set(self._beside)
        self._tensors: dict[str, TensorInfo] = {}
        for name, info in inner.tensors.items():
            if name in makes:
                made = makes[name].info
                self._tensors[made.name] = made
            elif name not in aside:
                self._tensors[name] = info
        if hashed := getattr(inner, "hash_contents", None):
            self.hash_contents = hashed
        text = inner.file(SAID).decode(errors="replace") if SAID in inner.contents.unknown else ""
        awq = any(isinstance(decoder, Awq) for decoder in decoders.values())
        self._smoothed = AWQ if awq else next((name for word, name in SMOOTHING.items() if word in text), "")
        self._config = Config(without_scheme(inner.config.plain()))
        dtype = self._dtype()
        self._kept = {n: i._replace(dtype=dtype) if n in decoders else i for n, i in self._tensors.items()}

    def _dtype(self) -> DType:
        """The dtype that the weights had: as the config says, or as most of those that are plain have it, or float32."""
        said = self._config.language
        stated = next((said[key] for key in ("dtype", "torch_dtype") if isinstance(said.get(key), str)), "")
        plain = Counter(i.dtype for n, i in self._tensors.items() if n not in self._decoders and i.dtype.mergeable)
        most = plain.most_common(1)
        return BY_TORCH.get(stated) or (most[0][0] if most else BY_TORCH["float32"])

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        return self._tensors

    @property
    def kept(self) -> Mapping[str, TensorInfo]:
        return self._kept

    @property
    def decoded(self) -> str:
        kinds = Counter(WORDS[type(decoder)] for decoder in self._decoders.values())
        return " and ".join(kind for kind, _ in kinds.most_common())

    @property
    def smoothed(self) -> str:
        return self._smoothed

    @property
    def lost(self) -> float:
        return max(decoder.lost for decoder in self._decoders.values())

    def read(self, name: str, start: int, stop: int, into: np.ndarray) -> None:
        decoder = self._decoders.get(name)
        if decoder is None:
            self._inner.read(name, start, stop, into)
        elif len(byte_view(decoder.info, start, stop, into)):
            values = decoder.decode(self._stored, start, stop)
            into.reshape(-1)[:] = values.astype("<f4", copy=False).view("u1").reshape(-1)

    def glance(self, name: str, start: int, stop: int, into: np.ndarray) -> None:
        if name in self._decoders:
            self.read(name, start, stop, into)
        else:
            self._inner.glance(name, start, stop, into)

    @property
    def remarks(self) -> tuple[str, ...]:
        return self._inner.remarks

    @property
    def config(self) -> Config:
        return self._config

    @property
    def contents(self) -> Contents:
        inner, known = self._inner.contents, {name for each in self._decoders.values() for name in each.uses}
        scales = [name for name in self._beside if name not in known]
        return inner._replace(unread=(*inner.unread, *scales))

    @property
    def aliases(self) -> Mapping[str, str]:
        return {
            name: other
            for name, other in self._inner.aliases.items()
            if name in self._tensors and other in self._tensors
        }

    def file(self, name: str) -> bytes:
        return self._inner.file(name)

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        self._inner.prepare(progress)

    def fingerprint(self) -> dict[str, Any]:
        return self._inner.fingerprint() | {"decoded": self.decoded}

    def stamp(self) -> dict[str, list[int]]:
        return self._inner.stamp()

    def close(self) -> None:
        self._inner.close()
