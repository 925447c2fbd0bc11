"""The recipe: a strict, serialisable statement of sources, method, settings and output.

    models:                      # a name for each source
      base: ./llama
      math: {path: org/math, revision: v1}
      blend: {method: slerp, models: [math, code], t: 0.5}     # a merge can be a model of another
      run: ./run/checkpoint-*                                  # becomes run@500, run@1000, ... in this order
      wide: {path: ./small, convert: {intermediate_size: 4096}}  # a model in another shape
      mine: {path: ./mine, rename: {"net.*": "model.*"}}         # a model under other names
      chat: ./llama+./chat-lora    # an adapter on its base
    merge:
      method: ties
      base: base
      models: [math, blend]      # default: every model but the base
      density: 0.2               # settings of the method: a scalar, a gradient, filtered, or by model
      weight: {math: 0.6, blend: [0.2, 0.8]}
      parts:                     # other methods for some tensors; the first that fits wins
        - {where: {role: [embed, head]}, take: base}
    output: {dtype: bfloat16, shard_size: 5GB, tokenizer: union}
    drop: ["*.inv_freq"]         # tensors that are left out on purpose
    tensors: intersection        # what not all models have: left out, or copied (union); default: refused
    allow: [rope_theta]          # differences between the configs that are accepted on purpose
    calibration: {data: texts.jsonl, samples: 64}   # for methods that look at data
    refine: featcal              # what is done to the merge with them
    protect: traces.jsonl        # text on which the output does as the base
    align: base                  # models that are brought into its coordinates before they are merged

`mergery.recipe.reading` reads one from a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from mergery.errors import Where
from mergery.method.roles import BASE
from mergery.recipe.aligning import Align
from mergery.recipe.calibrating import Calibration, Refine
from mergery.recipe.document import write_yaml
from mergery.recipe.protecting import Protect
from mergery.recipe.source import Source
from mergery.recipe.values import Condition, Value

DEFAULT_SHARD = 5_000_000_000
TENSORS = ("union", "intersection")
"""What an output has of tensors that not all models have: each of them, copied, or none."""


@dataclass(frozen=True)
class Slice:
    """Consecutive output layers, made from one range of layers of each of its models."""

    models: tuple[tuple[str, tuple[int, int]], ...]  # inclusive ranges of input layers
    base: str | None = None
    settings: Mapping[str, Value] = field(default_factory=dict)
    place: Where | None = field(default=None, compare=False)

    @property
    def merged(self) -> tuple[str, ...]:
        """Its models but the base."""
        return tuple(name for name, _ in self.models if name != self.base)

    @property
    def depth(self) -> int:
        low, high = self.models[0][1]
        return high - low + 1

    def plain(self) -> dict[str, Any]:
        """The slice as plain data."""
        base = {"base": self.base} if self.base else {}
        settings = {name: value.plain() for name, value in self.settings.items()}
        return {"models": {name: f"{low}-{high}" for name, (low, high) in self.models}, **base, **settings}


@dataclass(frozen=True)
class Growth:
    """A stack by rule, whose slices are known with the model's depth.

    `upscale` lays two copies of the model one on the other, the first without its last `layers` layers and the second
    without its first (SOLAR, arXiv 2312.15166). `insert` puts behind every `layers` layers a copy of the last one that
    adds nothing yet (LLaMA Pro, arXiv 2401.02415).
    """

    rule: str  # upscale or insert
    model: str
    layers: int
    place: Where | None = field(default=None, compare=False)

    def plain(self) -> dict[str, Any]:
        """The rule as plain data."""
        return {self.rule: self.model, GROWTHS[self.rule]: self.layers}


GROWTHS = {"upscale": "drop", "insert": "every"}  # the rules of stacks, and what their numbers of layers are called


@dataclass(frozen=True)
class Override:
    """What tensors that fit a condition get instead of the merge's method: another method, or the tensor of one model."""

    where: Condition = field(default_factory=Condition)
    method: str | None = None
    take: str | None = None
    settings: Mapping[str, Value] = field(default_factory=dict)
    place: Where | None = field(default=None, compare=False)
    places: Mapping[str, Where] = field(default_factory=dict, compare=False)  # of its settings

    def plain(self) -> dict[str, Any]:
        """What the tensors get, as plain data."""
        what = {"take": self.take} if self.take else {"method": self.method}
        return {**what, **{name: value.plain() for name, value in self.settings.items()}}


@dataclass(frozen=True)
class Merge:
    """One method over named models; `stack` or `growth` makes a model of another depth.

    The first of `overrides` that fits a tensor says what it gets; else the method, if it works on the tensor's role; else the
    `rest`.
    """

    method: str
    models: tuple[str, ...]
    base: str | None = None
    settings: Mapping[str, Value] = field(default_factory=dict)
    stack: tuple[Slice, ...] = ()
    dtype: str | None = None  # of a stage: round its result to this dtype before it is used
    place: Where | None = field(default=None, compare=False)
    places: Mapping[str, Where] = field(default_factory=dict, compare=False)  # of its settings
    growth: Growth | None = None
    preset: str | None = None
    overrides: tuple[Override, ...] = ()
    rest: Override | None = None

    def names(self) -> tuple[str, ...]:
        """All models it refers to, base first, without repetition."""
        names = [self.base] if self.base else []
        names += self.models
        names += [self.growth.model] if self.growth else []
        for part in self.stack:
            names += [part.base] if part.base else []
            names += [name for name, _ in part.models]
        return tuple(dict.fromkeys(names))

    def plain(self) -> dict[str, Any]:
        """The merge as plain data."""
        result: dict[str, Any] = {"method": self.method}
        if self.base:
            result["base"] = self.base
        if not self.stack and not self.growth:
            result["models"] = list(self.models)
        if self.preset:
            result["preset"] = self.preset
        result.update((name, value.plain()) for name, value in self.settings.items())
        if self.rest:
            result["rest"] = BASE if self.rest.take == BASE else self.rest.plain()
        if self.overrides:
            result["parts"] = [{"where": each.where.plain(), **each.plain()} for each in self.overrides]
        if self.dtype:
            result["dtype"] = self.dtype
        if self.growth:
            result["stack"] = self.growth.plain()
        if self.stack:
            result["stack"] = [piece.plain() for piece in self.stack]
        return result


@dataclass(frozen=True)
class AdapterOutput:
    """An adapter as output: what stands between the merge and its base, in factors of a rank.

    rank:       of each module; None: as many as nothing is lost with.
    ranks:      of single modules, by name.
    space:      where adapters are merged: in `core` space, in a `shared` basis of the output's rank, or in `full`; None: core
                space where the rank suffices for all, else a shared basis.
    pico:       damp what all adapters crowd into before they are merged, and give the result their mean length.
    embeddings: of fine-tunes: `whole`, as factors (`lora`), or left as in the `base`.
    base:       the model that the adapter is for, where the merge names none.
    """

    rank: int | None = None
    ranks: Mapping[str, int] = field(default_factory=dict)
    space: str | None = None
    pico: bool = False
    embeddings: str = "whole"
    base: str | None = None

    def rank_of(self, module: str) -> int | None:
        """The rank of a module."""
        return self.ranks.get(module, self.rank)

    def plain(self) -> dict[str, Any]:
        """What is said of the adapter, as plain data."""
        said = {"rank": self.rank, "ranks": dict(self.ranks), "space": self.space, "base": self.base}
        said["calibrate"] = "pico" if self.pico else None
        said["embeddings"] = self.embeddings if self.embeddings != "whole" else None
        return {key: value for key, value in said.items() if value}


@dataclass(frozen=True)
class Output:
    """What is written: dtype (None keeps the donor's), shard size in bytes, the config's donor, the vocabulary (a model's,
    `base` or `union`) and the chat template (a model's, a named one, Jinja or `auto`)."""

    dtype: str | None = None
    shard_size: int = DEFAULT_SHARD
    config: str | None = None
    tokenizer: str | None = None
    chat_template: str | None = None
    adapter: AdapterOutput | None = None  # instead of a model


@dataclass(frozen=True)
class TokenRow:
    """Where the row of one token comes from: a model's own, another token's, an id's, or zeros."""

    model: str | None = None  # None: zeros
    token: str | None = None  # None: the same token
    id: int | None = None
    force: bool = False  # also for models that know the token
    place: Where | None = field(default=None, compare=False)

    def plain(self) -> Any:
        if self.model is None:
            return {"zero": True, "force": True} if self.force else "zero"
        row: dict[str, Any] = {"from": self.model}
        if self.token is not None:
            row = {"like": self.token, "of": self.model}
        if self.id is not None:
            row = {"id": self.id, "of": self.model}
        return {**row, "force": True} if self.force else row


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of the output and the rows that they get."""

    source: str = "base"  # base, union or a model
    base: str | None = None  # whose rows fill what others lack; None: the merge's base
    tokens: Mapping[str, TokenRow] = field(default_factory=dict)
    add: Mapping[str, bool] = field(default_factory=dict)  # new tokens, and whether each is a special one
    pad_to_multiple_of: int | None = None
    padding: str = "keep"  # keep or cut
    unknown: str = "mean"  # rows of tokens that no merged model has: mean, zero, random, subword or omp
    neighbours: int = 64  # of omp: tokens of which a row is made
    place: Where | None = field(default=None, compare=False)
    places: Mapping[str, Where] = field(default_factory=dict, compare=False)  # of its keys

    def models(self) -> tuple[str, ...]:
        """Names that it uses; `base` and `union` may be words rather than models."""
        named = [name for name in (self.source, self.base, *(row.model for row in self.tokens.values())) if name]
        return tuple(dict.fromkeys(named))

    def plain(self) -> dict[str, Any]:
        result: dict[str, Any] = {"from": self.source}
        if self.base:
            result["base"] = self.base
        if self.tokens:
            result["tokens"] = {token: row.plain() for token, row in self.tokens.items()}
        if self.add:
            result["add"] = [
                token if special else {"token": token, "special": False} for token, special in self.add.items()
            ]
        if self.pad_to_multiple_of:
            result["pad_to_multiple_of"] = self.pad_to_multiple_of
        if self.padding != "keep":
            result["padding"] = self.padding
        if self.unknown == "omp":
            result["unknown"] = {"omp": self.neighbours}
        elif self.unknown != "mean":
            result["unknown"] = self.unknown
        return result


@dataclass(frozen=True, repr=False)
class Recipe:
    """All that determines a merge. `folder` is what relative paths start from."""

    models: Mapping[str, Source | Merge]
    merge: Merge
    output: Output = Output()
    seed: int = 0
    drop: tuple[str, ...] = ()  # patterns of tensor names that are left out on purpose
    allow: tuple[str, ...] = ()  # facts of the configs in which the models may differ on purpose
    folder: Path = Path()
    file: str = field(default="recipe", compare=False)
    notes: tuple[str, ...] = field(default=(), compare=False)  # what an importer wants the user to know
    vocabulary: Vocabulary | None = None
    say: Callable[[str], str] = field(default=str, compare=False)  # a hint, in the language of the recipe's file
    tensors: str | None = None  # one of `TENSORS`; None: all models must have the same
    calibration: Calibration | None = None
    refine: Refine | None = None
    protect: Protect | None = None
    align: Align | None = None

    @property
    def donor(self) -> str:
        """The model whose names, config and side files the output takes."""
        return self.output.config or self.merge.base or self.merge.names()[0]

    @property
    def title(self) -> str:
        """The merge in a few words: `ties of math, code on base`."""
        names = ", ".join(name for name in self.merge.names() if name != self.merge.base)
        return f"{self.merge.method} of {names}" + (f" on {self.merge.base}" if self.merge.base else "")

    def __repr__(self) -> str:
        return f"<Recipe: {self.title}>"

    def _repr_html_(self) -> str:
        """The recipe as YAML, for a notebook."""
        return f"<pre>{escape(write_yaml(self.plain()).strip())}</pre>"

    @property
    def wanted_vocabulary(self) -> Vocabulary | None:
        """What the recipe says of the output's tokens, in either form."""
        short = self.output.tokenizer if self.vocabulary is None else None
        return Vocabulary(short) if short else self.vocabulary

    def plain(self) -> dict[str, Any]:
        """The recipe as plain data: what `mergery import` prints and the digest is made of."""
        result: dict[str, Any] = {
            "models": {name: model.plain() for name, model in self.models.items()},
            "merge": self.merge.plain(),
        }
        output = {
            "dtype": self.output.dtype,
            "shard_size": self.output.shard_size if self.output.shard_size != DEFAULT_SHARD else None,
            "config": self.output.config,
            "tokenizer": self.output.tokenizer,
            "chat_template": self.output.chat_template,
        }
        adapter = {} if self.output.adapter is None else {"adapter": self.output.adapter.plain() or True}
        more = {
            "output": {key: value for key, value in output.items() if value} | adapter,
            "vocabulary": self.vocabulary.plain() if self.vocabulary else None,
            "seed": self.seed,
            "drop": list(self.drop),
            "tensors": self.tensors,
            "allow": list(self.allow),
            "calibration": self.calibration.plain() if self.calibration else None,
            "refine": self.refine.plain() if self.refine else None,
            "protect": self.protect.plain() if self.protect else None,
            "align": self.align.plain() if self.align else None,
        }
        return result | {key: value for key, value in more.items() if value}
