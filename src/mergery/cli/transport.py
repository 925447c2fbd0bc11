"""`mergery transport`."""

from __future__ import annotations

from dataclasses import replace as replaced
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from mergery.cli.common import (
    CHUNK,
    DeviceName,
    DryRun,
    Writing,
    console,
    flowing,
    print_json,
    run_options,
    wait_without_spinning,
)

if TYPE_CHECKING:
    from mergery.alignment.transport.estimate import Estimate

Names = Annotated[
    str, Parameter(help="With commas between: attention, mlp, or single ones of q, k, v, o, gate, up, down.")
]


@flowing
def transport(
    source: str,
    out: Path,
    /,
    *,
    into: str,
    data: str,
    alpha: float = 0.05,
    modules: Names = "attention",
    neurons: int = 128,
    mode: Literal["normalised", "paper", "released"] = "normalised",
    fusion: Literal["convex", "residual"] | None = None,
    layers: Literal["balanced", "unbalanced", "argmin", "monotone"] | None = None,
    rows: Literal["tokens", "prompts"] | None = None,
    sign: Literal["plain", "signed"] | None = None,
    scale: Literal["deviation", "regression", "none"] | None = None,
    heads: bool = False,
    epsilon: float | None = None,
    eta: float = 0.1,
    iterations: int = 200,
    most: int = 4096,
    limit: int | None = None,
    longest: int = 512,
    since: str | None = None,
    control: Literal["shrink", "shuffled"] | None = None,
    weights: Path | None = None,
    adapt: Path | None = None,
    epochs: int = 1,
    rate: float = 1e-5,
    batch: int = 8,
    seed: int = 0,
    device: DeviceName = "cpu",
    dry_run: DryRun = False,
    writing: Writing = Writing(),
) -> None:
    """Move what SOURCE has learnt into a model of another width, depth or vocabulary, and write the model folder OUT.

    Neurons and layers of both are matched by what they say on the same texts, by optimal transport (arXiv 2602.05495); the
    source's weights are brought into the target's coordinates, and the target's go a little way towards them. OUT has the
    target's config and tokenizer. The transported weights stay beside it, in OUT.transported, with a recipe: another alpha
    takes a merge and no other transport. docs/transport.md says what to expect of it, and what not.

    Parameters
    ----------
    source
        A model folder, a hub id, or a recipe, which is never written.
    out
        The model folder to write.
    into
        The target: a model folder or a hub id.
    data
        Texts on which neurons are compared: a task file (.jsonl), plain text, datasets:NAME[,CONFIG][:SPLIT[:COLUMN]], or
        synthetic: texts that the source draws itself.
    alpha
        How far the target's weights go towards the transported ones, from 0 to 1.
    neurons
        How many neurons of a module change, those that say most; 0 for all.
    mode
        normalised makes maps of plans; paper and released take plans as they are, as published.
    fusion
        convex, the usual way, goes towards the transported weights; residual adds them, as --since always does.
    layers
        How layers are coupled: argmin, the usual way, takes the one that is most like; balanced is the paper's.
    rows
        What is compared: tokens that end at the same place of a text, or the means of prompts, as the paper does.
    sign
        signed lets a neuron match another's negative.
    scale
        deviation, the usual way, brings neurons to the size that the target's have; regression to as much of it as their
        match foretells, which is next to nothing where nothing matches.
    heads
        Match queries and keys head by head, by turns of their rotary planes, and not neuron by neuron.
    epsilon
        Of the entropy of neurons' plans: 0.03, or 0.1 as published.
    eta
        Of the entropy of layers' plans.
    iterations
        Of a plan of neurons, at most.
    most
        Rows that are compared, at most.
    limit
        Take the first so many items of the data only.
    longest
        Tokens of a text; what is longer is cut.
    since
        The model that SOURCE was trained from: only what it has learnt since is moved, and added.
    control
        What a gain has to be held against: zeros instead of transported weights, or neurons matched at random.
    weights
        Where transported weights are kept, instead of OUT.transported.
    adapt
        Texts on which the target's own weights are fine-tuned beside the transported ones, which stay as they are. The
        target is then in memory as a whole.
    epochs
        Of --adapt.
    rate
        Of --adapt: how far a weight moves in a step, about.
    batch
        Of --adapt: texts of a step.
    seed
        Of texts that are drawn, of a control's order, and of the order of texts in --adapt.
    """
    wait_without_spinning()
    from mergery import api
    from mergery.alignment.transport.adapting import AdaptOptions
    from mergery.alignment.transport.options import TransportOptions
    from mergery.alignment.transport.running import foresee, places

    names = tuple(dict.fromkeys(name.strip() for name in modules.split(",") if name.strip()))
    run, replace = run_options(writing.threads, CHUNK, device), writing.replace
    options = replaced(
        TransportOptions(names, mode, fusion, neurons, layers, rows, sign, scale, limit=limit, longest=longest),
        heads=heads, epsilon=epsilon, eta=eta, iterations=iterations, most=most, control=control, seed=seed,
        threads=writing.threads, device=device,
    )  # fmt: skip
    if dry_run:
        places(out, weights, alpha, replace=replace)
        _say(foresee(source, into, data, options, since), json=writing.telling.json)
        return
    told: dict[str, Any] = {"alpha": alpha, "since": since, "weights": weights, "replace": replace}
    if adapt is not None or (epochs, rate, batch) != (1, 1e-5, 8):
        told |= {"adapt": adapt, "adapting": AdaptOptions(epochs, rate, batch=batch, longest=longest, seed=seed)}
    told |= {"options": options, "run": run, "restart": writing.restart}
    with writing.reporter() as report:
        api.transport(source, into, data, out, on_event=report.event, **told)


def _say(found: Estimate, *, json: bool) -> None:
    """Print what a transport would do and take."""
    if json:
        print_json(found.plain())
        return
    screen = console()
    for line in found.words:
        screen.print(line)
