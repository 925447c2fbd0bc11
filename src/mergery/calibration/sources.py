"""Where calibration data come from: a file, `datasets:NAME`, or `synthetic`, which are samples that the model draws itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mergery.calibration.data import Row, Texts, read_texts
from mergery.calibration.model import StreamedModel
from mergery.engine import Shared
from mergery.errors import CheckpointError, RecipeError, TaskError, Where
from mergery.recipe.calibrating import SAMPLES, SYNTHETIC

DATASETS = "datasets:"
AT_ONCE = 32  # samples that are drawn side by side


def mark_of(data: str, folder: Path, place: Where | None) -> str:
    """What tells data from others. Raises TaskError for a file that is not there."""
    if data == SYNTHETIC or data.startswith(DATASETS):
        return data
    try:
        return hashlib.sha256((folder / Path(data).expanduser()).read_bytes()).hexdigest()
    except OSError as error:
        hint = "give a text file, JSON objects one a line (.jsonl), datasets:NAME, or synthetic"
        why = error.strerror or ""
        raise TaskError(f"the data {data!r} cannot be read", where=place, why=why, hint=hint) from None


def texts_of(
    data: str,
    folder: Path,
    model: StreamedModel,
    tokenizer: Any,
    *,
    longest: int,
    limit: int | None,
    pair: bool,
    seed: int,
    shared: Callable[[], Shared] = Shared,
) -> Texts:
    """The texts that data name, in rows of at most `longest` tokens. `model` draws them where they are synthetic, with what
    its merges ask of whole models (`shared`). Raises MergeryError.
    """
    options: Any = {"longest": longest, "limit": limit, "pair": pair, "config": model.config.to_dict()}
    if data == SYNTHETIC:
        model.prepare(shared())
        return drawn(model, longest, limit or SAMPLES, seed)
    if data.startswith(DATASETS):
        items = items_of(data, limit)
        lines = "".join(json.dumps({"text": text}) + "\n" for text in items)
        return read_texts(Path(f"{data}.jsonl"), tokenizer, content=lines.encode(), **options)
    return read_texts(folder / Path(data).expanduser(), tokenizer, **options)


# --- datasets -----------------------------------------------------------------------------------------------------------


def items_of(data: str, limit: int | None) -> Iterator[str]:
    """Texts of a data set of the hub, or of a folder: `datasets:NAME[,CONFIG][:SPLIT[:COLUMN]]`."""
    if find_spec("datasets") is None:
        raise RecipeError(f"{data} needs datasets", hint="pip install datasets, or write the texts to a file")
    import datasets

    name, split, column = (*data.removeprefix(DATASETS).split(":"), "", "")[:3]
    name, _, config = name.partition(",")
    where, hint = (
        Where(data),
        "datasets:NAME,CONFIG:SPLIT:COLUMN, such as datasets:wikitext,wikitext-2-raw-v1:train:text",
    )
    try:
        rows = iter(datasets.load_dataset(name, config or None, split=split or "train", streaming=True))
        first = next(rows, None)
    except Exception as error:  # of the hub, of the network, of its files: whatever it is, it is told
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TaskError("this data set cannot be read", where=where, why=why, hint=hint) from None
    column = column or "text"
    if first is None or not isinstance(first.get(column), str):
        why = f"its columns are {', '.join(map(str, first))}" if first else "it is empty"
        raise TaskError(f"it has no column of texts called {column!r}", where=where, why=why, hint=hint)
    for number, row in enumerate(each for some in ([first], rows) for each in some):
        if limit is not None and number >= limit:
            return
        if str(row[column]).strip():
            yield str(row[column])


# --- the model's own samples --------------------------------------------------------------------------------------------


def drawn(model: StreamedModel, longest: int, count: int, seed: int) -> Texts:
    """Rows that a language model draws token by token, from nothing but its first token. Its weights are all in memory
    meanwhile. Raises CheckpointError for other models.
    """
    import torch
    from transformers.models.auto import modeling_auto as auto

    name = type(model.module).__name__
    where = Where(model.view.donor.location)
    if name not in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        what, hint = f"a {name} draws no texts", "give a file of texts"
        raise CheckpointError(what, where=where, why="only decoders write from nothing", hint=hint)
    config = getattr(model.config, "text_config", None) or model.config
    first, last = getattr(config, "bos_token_id", None), getattr(config, "eos_token_id", None)
    ends = set(last if isinstance(last, list) else [last])
    rows: list[Row] = []
    vocabulary = model.module.get_input_embeddings().weight.shape[0]
    with ExitStack() as stack, torch.random.fork_rng(devices=[]), torch.no_grad():
        for unit in model.units:
            stack.enter_context(model.filled(unit))
        torch.manual_seed(seed)
        while len(rows) < count:
            some = min(AT_ONCE, count - len(rows))
            begin = torch.full((some, 1), first) if isinstance(first, int) else torch.randint(vocabulary, (some, 1))
            found = model.module.generate(
                begin, attention_mask=torch.ones_like(begin), do_sample=True, top_k=0, top_p=1.0, temperature=1.0,
                max_new_tokens=longest - 1, use_cache=True, pad_token_id=int(next(iter(ends)) or 0),
            )  # fmt: skip
            for tokens in found.tolist():
                end = next((place for place, token in enumerate(tokens[1:], 1) if token in ends), len(tokens) - 1)
                rows.append(Row((), tuple(tokens[: end + 1])))
    content = json.dumps([row.answer for row in rows]).encode()
    return Texts(tuple(rows), f"{SYNTHETIC}, seed {seed}", hashlib.sha256(content).hexdigest())
