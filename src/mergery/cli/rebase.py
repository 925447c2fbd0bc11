"""`mergery rebase`."""

from __future__ import annotations

from json import dumps
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from mergery.cli.common import DryRun, Writing, console, flowing

Tasks = Annotated[tuple[Path, ...], Parameter(consume_multiple=True)]
From = Annotated[str, Parameter(name="from", help="The base that the fine-tune was trained from.")]
To = Annotated[str, Parameter(name="to", help="The new base: of the same shape, but for theseus.")]


@flowing
def rebase(
    finetune: str,
    out: Path,
    /,
    *,
    old: From,
    new: To,
    way: Literal["shift", "transplant", "transfusion", "theseus", "gradfix"] = "shift",
    scale: float = 1.0,
    data: str | None = None,
    samples: int = 256,
    length: int = 256,
    ridge: float = 1e-2,
    whiten: float = 0.0,
    heads: Literal["each", "whole"] = "each",
    sizes: Literal["matched", "kept"] = "matched",
    mask: Literal["drop", "turn"] = "drop",
    vote: Literal["mean", "majority"] = "mean",
    tokenizer: Literal["base", "union"] | None = None,
    tasks: Tasks = (),
    dry_run: DryRun = False,
    writing: Writing = Writing(),
) -> None:
    """Move FINETUNE from the base that it was trained from onto a new one, and write the model folder OUT.

    transplant adds what the fine-tune has learned to the new base (methods.md#analogy). shift, the usual way, leaves out what
    the new base has learned as well, tensor by tensor (methods.md#rebase). transfusion adds it once neurons, heads and
    channels of the old base are in the order of the new one's. theseus carries it through orthogonal maps between the two
    bases, whose widths may differ. gradfix keeps what goes down the new base's loss on data. Config and tokenizer are the new
    base's. With tasks, the fine-tune, both bases and the result are scored, and it is said how much of the fine-tune's effect
    is left.

    Parameters
    ----------
    finetune
        The folder of the fine-tune, or BASE+ADAPTER.
    out
        The model folder to write.
    way
        How the fine-tune is moved (see docs/rebase.md).
    scale
        Factor of what is moved.
    data
        Texts: any for theseus, which looks at weights alone without; a few of the fine-tune's task for gradfix.
    samples
        So many texts are read at most.
    length
        Tokens of a text.
    ridge
        Of theseus: how much what weights say counts beside what texts say.
    whiten
        Of theseus: the power by which both bases' spaces are whitened, 0 to 0.5.
    heads
        Of theseus: whether attention is mapped head by head, or whole, as published.
    sizes
        Of theseus: whether what is carried is brought to the size of the new base's rows, or keeps its own, as published.
    mask
        Of gradfix: what goes up the loss is dropped, or turned round.
    vote
        Of gradfix: the sign of the mean gradient, or of the majority of texts.
    tokenizer
        Where the vocabularies differ: base keeps the new base's tokens, union all.
    tasks
        Task files on which the effect is measured (see docs/evaluation.md).
    """
    from mergery import api
    from mergery.alignment.rebasing.options import RebaseOptions

    run = writing.options
    options = RebaseOptions(way, scale, samples, length, ridge, whiten, heads, sizes, mask, vote, threads=run.threads)
    if dry_run:
        from mergery.alignment.rebasing.running import rebased_plan
        from mergery.cli.merge import say_beforehand
        from mergery.run.events import ignore

        with rebased_plan(finetune, old, new, options, data=data, tokenizer=tokenizer, notify=ignore) as plan:
            say_beforehand(plan, out, run, writing)
        return
    with writing.reporter() as report:
        done = api.rebase(
            finetune, out, old=old, new=new, data=data, options=options, tokenizer=tokenizer, tasks=list(tasks), run=run,
            on_event=report.event, replace=writing.replace, restart=writing.restart,
        )  # fmt: skip
    if writing.telling.json and done.effects:
        print(dumps({"effects": [effect.plain() for effect in done.effects]}))
    elif not writing.telling.quiet:
        for effect in done.effects:
            console().print(effect.words)
