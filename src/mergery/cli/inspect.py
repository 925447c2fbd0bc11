"""`mergery inspect`."""

from __future__ import annotations

from typing import Any

from mergery.cli.common import Document, console, flowing, print_json, table

WIDE = 60  # columns of a terminal in which shapes and names of tensors have room


@flowing
def inspect(
    checkpoint: str, /, *others: str, memory: bool = False, interference: bool = False, json: Document = False
) -> None:
    """Show what a model is and, with OTHERS, what may be merged with it and why not. Reads headers, and weights with
    --interference alone.

    Parameters
    ----------
    checkpoint
        A model folder, a weight file or a hub id.
    others
        Models that might be merged with it.
    memory
        Also show what the model takes when it runs: weights by format, cache by length of context, and what fits where.
    interference
        Also show how the task vectors of the others, fine-tunes of CHECKPOINT, meet: what they share and where they conflict.
    """
    from mergery import api

    facts = api.inspect(checkpoint, others, memory=memory, interference=interference)
    if json:
        print_json(facts)
    else:
        show_facts(facts)


def show_facts(facts: dict[str, Any]) -> None:
    """Print what a checkpoint is for a person."""
    from mergery.errors import size
    from mergery.report.words import count

    out = console()

    def line(name: str, text: str) -> None:
        out.print(f"{name:15}", style="bold", end="")
        out.print(text)

    kind = facts["family"] or "unknown: there is no config.json with a model_type"
    if facts["adapter"] and not facts["family"]:
        kind = "that of the model it was made for" + (f", {facts['made_for']}" if facts["made_for"] else "")
    line("model", facts["location"])
    if facts["adapter"]:
        line(
            "adapter",
            f"{facts['adapter']}; to merge what it makes of its model, name that before it: MODEL+{facts['location']}",
        )
    for each in facts.get("adapters", ()):
        line("with adapter", f"{each['location']}: {each['adapter']}; what follows is of the model under it")
    line("family", kind + (f", language model {facts['language_model']}" if facts["language_model"] else ""))
    line("layers", f"{facts['layers']} ({facts['stack']})" if facts["stack"] else "none with numbers")
    line("parameters", f"{count(facts['parameters'])} in {facts['tensors']} tensors, {size(facts['bytes'])}")
    if len(facts["parts"]) > 1:
        line("parts", ", ".join(f"{part} {count(number)}" for part, number in facts["parts"].items()))
    line("dtypes", ", ".join(f"{dtype} ({number})" for dtype, number in facts["dtypes"].items()))
    if facts["decoded"]:
        line("stored as", f"{facts['decoded']}: codes, which are decoded as they are read")
    if facts["quantised"]:
        line("quantised", f"{facts['quantised']['method']}: {facts['quantised']['why']}; it cannot be merged")
    tied = {True: "tied to the embeddings", False: "its own", None: "the config does not say"}[facts["tied"]["head"]]
    line("head", tied + "".join(f"; {alias} is {name}" for alias, name in facts["tied"]["aliases"].items()))
    for fused in facts["fused"]:
        keys = list(fused["parts"])
        made = ", ".join(keys[:4]) + (f" and {len(keys) - 4} more" if len(keys) > 4 else "")
        line("fused", f"{fused['tensors']} such as {fused['such_as']}: {made}")
    line("tokenizer", _tokenizer(facts["tokenizer"]))
    out.print()
    wide = out.width >= WIDE
    columns = {"part": "part"} if wide or len(facts["parts"]) > 1 else {}
    columns |= {"role": "role", "tensors": "tensors", "parameters": "parameters"}
    columns |= {"shapes": "shapes", "such as": "such_as"} if wide else {}
    roles = table(*columns)
    for row in facts["roles"]:
        told = {**row, "tensors": str(row["tensors"]), "parameters": count(row["parameters"])}
        roles.add_row(*({**told, "shapes": ", ".join(row["shapes"])}[key] for key in columns.values()))
    out.print(roles)
    if "memory" in facts:
        show_memory(facts["memory"])
    if "interference" in facts:
        show_interference(facts["interference"])
    for text in facts["remarks"]:
        out.print(f"note: {text}", style="yellow")
    for other in facts.get("merging", ()):
        out.print()
        verdict = "merges with this model" if other["merges"] else "does not merge with this model"
        out.print(f"{other['location']} {verdict}", style="bold")
        hints = (f"try: {hint}" for hint in dict.fromkeys(other["hints"]))
        for text in (*other["why_not"], *hints, *other["remarks"]):
            out.print(f"  {text}")


def show_memory(facts: dict[str, Any]) -> None:
    """Print what a model takes when it runs."""
    from mergery.errors import size
    from mergery.report.words import count

    out = console()
    active = ""
    if facts["experts"]:
        experts = facts["experts"]
        active = f", of which a token meets {count(facts['active'])}: {experts['used']} of {experts['count']} experts"
    out.print(f"\n{count(facts['parameters'])} parameters{active}")
    weights = table("weights as", "size")
    for name, nbytes in facts["weights"].items():
        weights.add_row(name, size(nbytes))
    contexts = table("context", "cache of one sequence, in 16 bits")
    for context, nbytes in facts["cache"].items():
        contexts.add_row(f"{context:,} tokens", size(nbytes))
    fits = table("memory", "finest format that fits", "and the longest context with it")
    for each in facts["fits"]:
        context = f"{each['context']:,} tokens" if each["format"] else ""
        fits.add_row(each["machine"], each["format"] or "none of these", context)
    for shown in (weights, contexts, fits):
        out.print()
        out.print(shown)
    out.print(
        "A card is counted with 90 % of its memory, a laptop with 75 %, less half a gigabyte for activations; a context is "
        "of 8,192 tokens at least.",
        style="dim",
    )


def show_interference(facts: dict[str, Any]) -> None:
    """Print how task vectors meet."""
    from mergery.report.advice import what_won
    from mergery.report.interference import WORDS

    out = console()
    shown = table(f"{facts['models']} task vectors, {facts['matrices']} matrices", "mean")
    for name, words in WORDS.items():
        shown.add_row(words, f"{facts[name]:.3f}")
    out.print()
    out.print(shown)
    if said := what_won(facts):
        out.print(said)


def _tokenizer(facts: dict[str, Any] | None) -> str:
    if facts is None:
        return "none"
    kind = " ".join(filter(None, (facts["type"], f"({facts['class']})" if facts["class"] else "")))
    words = f", {facts['vocabulary']} tokens" if facts["vocabulary"] else ""
    special = ", ".join(f"{key.removesuffix('_token')} {value}" for key, value in facts["special"].items())
    template = "a chat template" if facts["chat_template"] else "no chat template"
    return f"{kind or 'of an unknown type'}{words}{'; ' + special if special else ''}; {template}"
