"""`mergery fuse`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from mergery.cli.common import (
    DryRun,
    MethodName,
    Restart,
    Telling,
    console,
    flowing,
    print_json,
    wait_without_spinning,
)

Teachers = Annotated[tuple[str, ...], Parameter(consume_multiple=True)]
TorchThreads = Annotated[int, Parameter(help="Threads of torch; 0 takes one for each core.")]


@flowing
def fuse(
    target: str,
    out: Path,
    /,
    *,
    teachers: Teachers,
    data: Path,
    preset: Literal["fusellm", "fusechat", "paper"] = "fusellm",
    pairwise: MethodName | None = None,
    rule: Literal["mince", "avgce"] | None = None,
    text: float | None = None,
    match: Literal["spans", "warping"] | None = None,
    vocabulary: Literal["exact", "first", "edit", "counts"] | None = None,
    top: int | None = None,
    temperature: float | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    rate: float | None = None,
    batch: int | None = None,
    at_once: int | None = None,
    longest: int | None = None,
    limit: int | None = None,
    lora: int | None = None,
    recompute: bool = False,
    save: int | None = None,
    precision: Literal["float32", "bfloat16"] | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    seed: int = 0,
    store: Path | None = None,
    threads: TorchThreads = 0,
    restart: Restart = False,
    dry_run: DryRun = False,
    telling: Telling = Telling(),
) -> None:
    """Teach TARGET what other models expect of texts, whatever their architectures and tokenizers, and write the folder OUT.

    First each teacher reads the data, and its most likely next tokens are stored, as tokens of TARGET. Then TARGET is trained
    on the texts and on these, by transformers' own loop. Run the same command after an interruption and it goes on.

    Parameters
    ----------
    target
        A model folder, a GGUF file, MODEL+ADAPTER, or a recipe. Its architecture and tokenizer are kept.
    out
        The folder to write. It must not exist, or be empty.
    teachers
        Models of any kind, size and vocabulary that write text, named as the target is.
    data
        A task file of `mergery evaluate` (.jsonl: texts, or prompts with their answers, which alone are learnt), or plain text.
    preset
        fusellm: FuseLLM's training, with the better matching of tokens; paper: FuseLLM as published; fusechat: FuseChat's.
        What is said besides changes it.
    pairwise
        Fuse each teacher into a student of its own, and merge these by this method, such as sce, with TARGET as base. OUT then
        holds students, recipe.yaml and merged.
    rule
        Which distributions are taught: those of the model that foretells a sequence best (mince), or of all, each weighed by
        exp(-loss) (avgce).
    text
        Weight of the text itself in the loss; the distributions have the rest. 0.9 if not given.
    match
        How tokens of two models are matched: where they begin in the text (spans), or by dynamic time warping (warping).
    vocabulary
        What becomes of a token that TARGET lacks: the first that it makes of it (first), the nearest by edit distance (edit),
        what the data pair it with (counts), or nothing (exact).
    top
        Probabilities that are kept of each distribution. 10 if not given.
    temperature
        Of the teachers' distributions.
    epochs
        Times over the data.
    steps
        Steps of the training, in place of epochs.
    rate
        Of AdamW, at its highest.
    batch
        Sequences in a step. 128 if not given.
    at_once
        Of them, in memory at a time. 4 if not given.
    longest
        Tokens of a sequence; longer texts are cut into several. What TARGET takes if not given, 2048 at most.
    limit
        Take the first so many items only.
    lora
        Train an adapter of this rank on all linear layers instead of all weights; it is put on them in the end.
    recompute
        Compute activations again on the way back, instead of keeping them: less memory, a third more time.
    save
        Steps from one checkpoint of the training to the next. 200 if not given.
    precision
        Of the computation. Weights are trained in float32 in any case.
    device
        Where to compute.
    seed
        Of the order of sequences.
    store
        A folder in which the distributions are kept for other runs on the same data.
    """
    wait_without_spinning()
    from dataclasses import replace

    from mergery import api
    from mergery.alignment.fusion.options import PRESETS, FuseOptions

    said: dict[str, Any] = {
        "rule": rule, "text": text, "match": match, "vocabulary": vocabulary, "top": top, "temperature": temperature,
        "epochs": epochs, "steps": steps, "rate": rate, "batch": batch, "at_once": at_once, "longest": longest, "limit": limit,
        "lora": lora, "save": save, "precision": precision,
    }  # fmt: skip
    options = replace(
        FuseOptions(seed=seed, device=device, threads=threads, recompute=recompute),
        **{**PRESETS[preset], **{name: value for name, value in said.items() if value is not None}},
    )
    if dry_run:
        outlook = api.foretell_fusion(target, teachers, data, options=options)
        if telling.json:
            print_json(outlook.plain())
        else:
            for line in outlook.words:
                console().print(line)
            if pairwise is not None:
                console().print(f"pairwise: the training is done {len(teachers)} times, once for each teacher")
        return
    with telling.reporter() as report:
        made = api.fuse(
            target,
            teachers,
            data,
            out,
            options=options,
            pairwise=pairwise,
            store=store,
            restart=restart,
            on_event=report.event,
        )
    if pairwise is not None and telling.in_words:
        console().print(f"the merged model is {made}; {out / 'recipe.yaml'} merges the students anew")
