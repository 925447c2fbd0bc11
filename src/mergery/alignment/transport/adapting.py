"""The target made used to what was transported into it: fine-tuning of its own weights, beside transported ones that stay.

An effective weight is `W + alpha (H - W0)`: W is trained and begins as the target's own, W0; the offset is fixed. So a neuron
that nothing was transported into is an ordinary weight, and folding is one sum. As the offset is fixed, the gradient is that of
the merged model: without weight decay the result is what fine-tuning the merged model gives; with it, W decays and the offset
does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mergery.alignment.transport.resuming import State
from mergery.calibration.counting import limit_of
from mergery.calibration.data import Row, Texts, read_texts
from mergery.calibration.replacing import with_replaced, write_arrays
from mergery.checkpoints import open_checkpoint
from mergery.errors import CheckpointError, DataError, RecipeError, Where
from mergery.evaluation.loading import pretrained, quiet, tokenizer_of
from mergery.kernels.random import key
from mergery.planning.plan import Plan

WARM = 0.03  # of the steps, in which the rate rises; it falls to nothing over the others


@dataclass(frozen=True)
class AdaptOptions:
    """How the target is fine-tuned.

    rate: of AdamW, at its highest. decay: of its weights. batch: texts of a step. longest: tokens of a text.
    """

    epochs: int = 1
    rate: float = 1e-5
    decay: float = 0.01
    batch: int = 8
    longest: int = 512
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 1), ("longest", 2)):
            if getattr(self, name) < least:
                what, why = f"{name} is {getattr(self, name)}", f"it must be {least} or more"
                raise RecipeError(what, why=why, hint=f"{name}: {least}")
        if not 0 < self.rate < 1:
            raise RecipeError(f"rate is {self.rate:g}", why="it must be above 0 and below 1", hint="rate: 1e-5")
        if not 0 <= self.decay < 1:
            raise RecipeError(f"decay is {self.decay:g}", why="it must be from 0 to below 1", hint="decay: 0.01")


class Frozen:
    """A model with fixed offsets on some of its weights, until they are folded into them."""

    def __init__(self, model: Any, offsets: Mapping[str, Any]) -> None:
        """offsets: by the names of parameters, float32 of their shapes. Raises CheckpointError for one that is not there."""
        from torch import nn
        from torch.nn.utils import parametrize

        class Offset(nn.Module):
            """The parameter and what is added to it."""

            def __init__(self, added: Any) -> None:
                super().__init__()
                self.register_buffer("added", added, persistent=False)

            def forward(self, own: Any) -> Any:
                return own + self.added

        self.model = model
        self.places: list[tuple[Any, str]] = []
        known = dict(model.named_parameters())
        for name, added in offsets.items():
            if name not in known or known[name].shape != added.shape:
                what = f"transformers has no parameter {name!r} of this shape"
                raise CheckpointError(what, hint="models are adapted under the names that transformers gives them")
            holder, _, own = name.rpartition(".")
            module = model.get_submodule(holder)
            parametrize.register_parametrization(module, own, Offset(added.to(known[name].device)))
            self.places.append((module, own))

    def fold(self) -> Any:
        """The model with effective weights for its own."""
        from torch.nn.utils import parametrize

        for module, own in self.places:
            parametrize.remove_parametrizations(module, own, leave_parametrized=True)
        self.places.clear()
        return self.model


def adapt(
    model: Any,
    offsets: Mapping[str, Any],
    rows: Sequence[Row],
    options: AdaptOptions = AdaptOptions(),
    *,
    state: State | None = None,
    told: Callable[[int, int, float], None] = lambda done, total, loss: None,
) -> Any:
    """Fine-tune a model of transformers with fixed offsets on some weights, fold these, and give it back.

    rows: texts in its tokens; where one has a prompt, what is learnt is the answer.
    state: what it goes on from, and where it is kept meanwhile.
    told: called with the step, of how many, and its loss. Raises DataError where the loss is not finite.
    """
    import torch

    frozen = Frozen(model, offsets)
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=options.rate, weight_decay=options.decay)
    batches = list(batches_of(rows, options))
    done = state.load(model, optimiser) if state is not None else 0
    for step, batch in enumerate(batches[done:], done + 1):
        warm = max(1.0, WARM * len(batches))
        share = min(step / warm, (len(batches) - step + 1) / max(1.0, len(batches) - warm))
        for group in optimiser.param_groups:
            group["lr"] = options.rate * share
        loss = _loss(model, batch)
        if not bool(torch.isfinite(loss)):
            raise DataError("the loss is not finite", hint="a smaller rate, or fewer transported weights")
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        told(step, len(batches), float(loss.detach()))
        if state is not None:
            state.keep(step, model, optimiser)
    return frozen.fold().eval()


def batches_of(rows: Sequence[Row], options: AdaptOptions) -> Iterator[list[Row]]:
    """The rows of all epochs, each in an order of its own that the seed decides."""
    usable = [row for row in rows if len(row.tokens) > 1]
    for epoch in range(options.epochs):
        order = np.random.Generator(np.random.PCG64(key(options.seed, "adapt", str(epoch)))).permutation(len(usable))
        for start in range(0, len(usable), options.batch):
            yield [usable[place] for place in order[start : start + options.batch]]


def _loss(model: Any, batch: Sequence[Row]) -> Any:
    """The mean cross-entropy of what is learnt, over all tokens of the batch."""
    import torch

    place = next(model.parameters()).device
    longest = max(len(row.tokens) for row in batch)
    ids = torch.zeros(len(batch), longest, dtype=torch.int64)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(batch):
        tokens = torch.tensor(row.tokens)
        ids[number, : len(tokens)], mask[number, : len(tokens)] = tokens, 1
        labels[number, len(row.prompt) : len(tokens)] = tokens[len(row.prompt) :]
    logits = model(input_ids=ids.to(place), attention_mask=mask.to(place), use_cache=False).logits[:, :-1].float()
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten().to(place), ignore_index=-100)


# --- a plan whose output is adapted ---------------------------------------------------------------------------------------


def read_rows(into: str | Path, data: str | Path, options: AdaptOptions) -> Texts:
    """The texts in tokens of the target. Raises MergeryError."""
    from transformers import AutoConfig

    folder = Path(into).expanduser()
    if not (folder / "config.json").is_file():
        why = "it is loaded as a whole and trained"
        raise CheckpointError(
            "a target that is adapted is a folder", where=Where(str(into)), why=why, hint="leave out --adapt"
        )
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    longest, words = min(options.longest, limit_of(config)), tokenizer_of(None, folder)
    return read_texts(Path(data).expanduser(), words, longest=longest, limit=None, pair=False, config=config.to_dict())


def adapted_plan(
    stack: ExitStack,
    plan: Plan,
    weights: Path,
    into: str | Path,
    alpha: float,
    texts: Texts,
    options: AdaptOptions,
    work: Path,
    *,
    device: str = "cpu",
    told: Callable[[int, int, float], None] = lambda done, total, loss: None,
) -> Plan:
    """The plan of a transport with adapted tensors in place of merged ones. Raises MergeryError.

    work: the folder where these lie, once they are found, and the state of a training that is not at its end.
    """
    mark = mark_of(texts, options)
    note = f"fine-tuned on {len(texts.rows)} texts beside fixed offsets: {{count}} tensors"
    file = work / "adapted.safetensors"
    if not file.exists():
        _adapt_into(file, plan, weights, into, alpha, texts, options, device=device, told=told)
    return with_replaced(stack, plan, [file], mark, note)


def mark_of(texts: Texts, options: AdaptOptions) -> list[Any]:
    """What determines the adapted tensors beside the plan, as plain data."""
    return [texts.sha256, marked(options)]


def marked(options: AdaptOptions) -> dict[str, Any]:
    """The options as plain data."""
    return {name: getattr(options, name) for name in options.__dataclass_fields__}


def _adapt_into(
    file: Path,
    plan: Plan,
    weights: Path,
    into: str | Path,
    alpha: float,
    texts: Texts,
    options: AdaptOptions,
    *,
    device: str,
    told: Callable[[int, int, float], None],
) -> None:
    """Fine-tune the target beside what is transported, and write its tensors to a file."""
    import torch

    torch.manual_seed(options.seed)
    with quiet():
        model = pretrained(str(Path(into).expanduser()), "language", "float32").to(device)
    known = dict(model.named_parameters())
    offsets: dict[str, Any] = {}
    with open_checkpoint(weights) as checkpoint:
        for name, info in checkpoint.tensors.items():
            values = np.empty(info.elements, np.float32)
            checkpoint.read(name, 0, info.elements, values.view(np.uint8))
            moved = torch.from_numpy(values).reshape(info.shape)
            own = known[name].detach().cpu() if name in known and known[name].shape == moved.shape else 0.0
            offsets[name] = alpha * (moved - own)
    state = State(file.with_name("state.pt"))
    adapt(model, offsets, texts.rows, options, state=state, told=told)
    found = {
        name: value.detach().cpu().float().numpy()
        for name, value in model.named_parameters()
        if name in plan.view.nodes
    }
    write_arrays(file, found, {})
    state.path.unlink(missing_ok=True)
