"""The target, trained by transformers' own loop on texts and on what its teachers expect of them."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PrinterCallback, ProgressCallback, Trainer, TrainerCallback, TrainingArguments

from mergery.alignment.fusion.distributions import fused, losses_of
from mergery.alignment.fusion.options import FuseOptions, steps_of
from mergery.alignment.fusion.teaching import path_of
from mergery.evaluation.loading import without_kernels
from mergery.run.output import write_at_once

IGNORED = -100
LOOKED_AT = 32  # sequences whose loss is told before and after


@dataclass
class Lessons(torch.utils.data.Dataset):
    """All sequences of the data, read from the stored files as they are wanted.

    texts:    the folder of the target's tokens. teachers: folders of distributions; none where the text alone is learnt.
    before:   tokens that the target has before every text.
    """

    texts: Path
    teachers: Sequence[Path]
    before: tuple[int, ...]
    rule: str
    starts: list[np.ndarray] = field(init=False)  # of the pieces of each shard
    bounds: np.ndarray = field(init=False)  # pieces before each shard

    def __post_init__(self) -> None:
        self.starts = [np.load(path) for path in sorted(self.texts.glob("starts-*.npy"))]
        self.bounds = np.cumsum([0, *(len(each) - 1 for each in self.starts)])

    def __len__(self) -> int:
        return int(self.bounds[-1])

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        shard = int(np.searchsorted(self.bounds, index, "right")) - 1
        place = index - int(self.bounds[shard])
        part = slice(*self.starts[shard][place : place + 2].tolist())
        tokens = self._array(self.texts, shard, "tokens")[part].astype(np.int64)
        learnt = int(self._array(self.texts, shard, "learnt")[place])
        shift = len(self.before)
        ids = np.concatenate([np.array(self.before, np.int64), tokens])
        labels = ids.copy()
        labels[: shift + learnt] = IGNORED
        if not self.teachers:
            return {"input_ids": ids, "labels": labels}
        losses = [float(self._array(folder, shard, "losses")[place]) for folder in self.teachers]
        rows = [(self._array(f, shard, "ids")[part], self._array(f, shard, "shares")[part]) for f in self.teachers]
        taught, shares = fused(self.rule, losses, [(own, parts.astype(np.float32)) for own, parts in rows])
        shares = shares / shares.sum(1, keepdims=True)  # stored in half precision
        empty = ((shift, 0), (0, 0))
        return {
            "input_ids": ids, "labels": labels, "taught": np.pad(taught, empty), "shares": np.pad(shares, empty),
        }  # fmt: skip

    def _array(self, folder: Path, shard: int, what: str) -> np.ndarray:
        return np.load(path_of(folder, shard, what), mmap_mode="r")


def together(rows: Sequence[dict[str, np.ndarray]]) -> dict[str, torch.Tensor]:
    """Sequences side by side, filled up on the right."""
    width = max(len(row["input_ids"]) for row in rows)
    found = {}
    for name in rows[0]:
        fill = IGNORED if name == "labels" else 0
        padded = [
            np.pad(row[name], [(0, width - len(row[name])), *[(0, 0)] * (row[name].ndim - 1)], constant_values=fill)
            for row in rows
        ]
        dtype = torch.float32 if name == "shares" else torch.long
        found[name] = torch.from_numpy(np.stack(padded)).to(dtype)
    lengths = torch.tensor([len(row["input_ids"]) for row in rows])
    found["attention_mask"] = (torch.arange(width)[None] < lengths[:, None]).long()
    return found


class Fusing(Trainer):
    """The loop of transformers with the loss of the fusion, averaged over all labels of a step."""

    def __init__(self, text: float, **given: Any) -> None:
        super().__init__(**given)
        self.text = text
        self.model_accepts_loss_kwargs = True  # the labels of a whole step are counted, and the loss is of that scale

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        count = num_items_in_batch if num_items_in_batch is not None else (inputs["labels"][:, 1:] != IGNORED).sum()
        outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False)
        loss = loss_of(outputs.logits, inputs, self.text) / count
        return (loss, outputs) if return_outputs else loss


def loss_of(logits: Any, inputs: dict[str, Any], text: float) -> Any:
    """The loss of a batch, summed over its labels."""
    own, taught = losses_of(logits, inputs["labels"], inputs.get("taught"), inputs.get("shares"))
    return own if text == 1.0 else text * own + (1.0 - text) * taught


class Telling(TrainerCallback):
    """Says how far the training is."""

    def __init__(self, tell: Callable[[int, int, float | None], None]) -> None:
        self.tell = tell

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **given: Any) -> None:
        if logs and "loss" in logs:
            self.tell(state.global_step, state.max_steps, float(logs["loss"]))


@without_kernels()
def train(
    module: Any,
    lessons: Lessons,
    folder: Path,
    options: FuseOptions,
    device: str,
    tell: Callable[[int, int, float | None], None],
) -> tuple[Any, int, float, float]:
    """Train a module; a training that was interrupted goes on behind its last checkpoint in `folder`.

    Returns the trained module, the steps, and the loss before and after on the first sequences.
    """
    at_once = next(size for size in range(min(options.at_once, options.batch), 0, -1) if options.batch % size == 0)
    steps = steps_of(len(lessons), options)
    if options.lora is not None:
        module = with_adapter(module, options)
    if options.recompute:
        recompute(module)
    beginning = folder / "before.json"
    if not beginning.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_at_once(beginning, json.dumps(mean_loss(module, lessons, options)))
    given = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=at_once, gradient_accumulation_steps=options.batch // at_once,
        max_steps=steps, learning_rate=options.rate, weight_decay=options.decay, adam_beta1=0.9, adam_beta2=0.95,
        lr_scheduler_type="cosine", warmup_steps=int(options.warmup * steps), logging_steps=max(1, steps // 100),
        save_strategy="steps", save_steps=options.save, save_total_limit=2, seed=options.seed, data_seed=options.seed,
        use_cpu=device == "cpu", bf16=options.precision == "bfloat16", report_to="none", disable_tqdm=True,
        remove_unused_columns=False, logging_nan_inf_filter=False,
    )  # fmt: skip
    trainer = Fusing(
        options.text, model=module, args=given, train_dataset=lessons, data_collator=together, callbacks=[Telling(tell)]
    )
    for each in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(each)
    trainer.train(resume_from_checkpoint=last_checkpoint(folder))
    if options.lora is not None:
        module = module.merge_and_unload()
    return module, steps, json.loads(beginning.read_text()), mean_loss(module, lessons, options)


def with_adapter(module: Any, options: FuseOptions) -> Any:
    """The module with a fresh adapter on all linear layers, which alone is trained."""
    from peft import LoraConfig, get_peft_model

    rank = options.lora or 1
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(options.seed)
    with warnings.catch_warnings():  # of transformers, about what peft asks it
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(module, config)


def recompute(module: Any) -> None:
    """Let the module compute activations again on the way back, instead of keeping them."""
    enable = getattr(module, "activation_checkpointing_enable", None) or module.gradient_checkpointing_enable
    enable()
    module.enable_input_require_grads()


def last_checkpoint(folder: Path) -> str | None:
    """The last checkpoint that was written whole: the state of the trainer is what it writes last."""
    found: dict[int, str] = {}
    for path in folder.glob("checkpoint-*"):
        try:
            found[int(json.loads((path / "trainer_state.json").read_text())["global_step"])] = str(path)
        except (OSError, ValueError, KeyError):
            continue
    return found[max(found)] if found else None


def mean_loss(module: Any, lessons: Lessons, options: FuseOptions) -> float:
    """The loss for each label of the first sequences, without dropout."""
    training, device = module.training, next(module.parameters()).device
    module.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        last = min(LOOKED_AT, len(lessons))
        for start in range(0, last, options.at_once):
            rows = [lessons[place] for place in range(start, min(start + options.at_once, last))]
            given = {name: value.to(device) for name, value in together(rows).items()}
            logits = module(
                input_ids=given["input_ids"], attention_mask=given["attention_mask"], use_cache=False
            ).logits
            total += float(loss_of(logits, given, options.text))
            count += int((given["labels"][:, 1:] != IGNORED).sum())
    module.train(training)
    return total / max(1, count)
