"""What `benchmarks.finding` measured, as a section of docs/search.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.pages import table


def page(kept: Mapping[str, Any], drawn: Mapping[str, int], methods: int) -> list[str]:
    """The section of the docs, from what was measured."""
    return [
        "On the models of [the comparison of methods](which-method.md), experts of one base on small skills "
        f"(`python -m benchmarks.finding`). Choices see {drawn['dev']} items of a skill, figures are on {drawn['test']} "
        "others; intervals are of 95 %.",
        "",
        *_on_search(kept.get("search", {}), methods),
        *_on_auto(kept.get("auto", {}), kept.get("planted", {})),
        *_on_soups(kept.get("soup", {}), kept.get("few", {})),
        *_on_flow(kept.get("flow", {})),
        *_on_samplers(kept.get("samplers", {})),
    ]  # fmt: skip


def _told(gain: Sequence[float]) -> str:
    return f"{gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}]"


def _on_search(found: Mapping[str, Any], methods: int) -> list[str]:
    if not found:
        return []
    rows = [
        (world.split()[0], f"`{each['rival']}` {each['defaults'][each['rival']]:.3f}",
         f"`{each['method']}` {each['score']:.3f}", _told(each["gain"]), each["candidates"], f"{each['core'] / 60:.1f}")
        for world, each in found.items()
    ]  # fmt: skip
    sure = [world.split()[0] for world, each in found.items() if each["gain"][1] > 0]
    lost = [world.split()[0] for world, each in found.items() if each["gain"][2] < 0]
    words = f"It is ahead beyond chance in {_listed(sure)}" if sure else "It is nowhere ahead beyond chance"
    words += f", and behind in {_listed(lost)}" if lost else ""
    return [
        "**Weights searched.** CMA-ES over a weight for each expert, of the method that is best on the items to choose by of "
        f"those that have weights, against the best of {methods} methods with nothing set, chosen in hindsight:",
        "",
        *table(("world", "best with nothing set", "searched", "gain", "candidates", "minutes of a core"), rows),
        "",
        f"{words}.",
        "",
    ]  # fmt: skip


def _on_auto(found: Mapping[str, Any], planted: Mapping[str, Any]) -> list[str]:
    lines = []
    if found:
        rows = [
            (world.split()[0], f"{each['chosen']} {each['score']:.3f}", f"`{each['rival']}` {each['best']:.3f}",
             _told(each["gain"]))
            for world, each in found.items()
        ]  # fmt: skip
        behind = [world.split()[0] for world, each in found.items() if each["gain"][2] < 0]
        words = f"It is behind the best in hindsight beyond chance in {_listed(behind)}." if behind else (
            "It is nowhere behind the best method in hindsight beyond chance."
        )  # fmt: skip
        lines += [
            "**`mergery auto`**, with six minutes:",
            "",
            *table(("world", "chosen", "best in hindsight", "difference"), rows),
            "",
            words,
        ]
    for world, each in planted.items():
        lines += [
            f"Asked for the skill of one expert alone ({world.split()[0]}, {each['skill']}), where no merge can be better, it "
            f"says: *{each['words']}*."
        ]  # fmt: skip
    return [*lines, ""] if lines else []


def _on_soups(found: Mapping[str, Any], few: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    rows, lost, won = [], [], []
    for world, counts in found.items():
        for count, each in {**counts, **few.get(world, {})}.items():
            won += [f"{world.split()[0]} ({count})"] if min(each["over uniform"][1], each["over greedy"][1]) > 0 else []
            told = ", ".join(f"{weight:.1f}" for weight in each["weights"].values())
            rows.append(
                (f"{world.split()[0]}, {count}", f"{each['score']:.3f} ({told})", f"{each['uniform']:.3f}",
                 f"{each['grown']:.3f}", _told(each["over uniform"]), _told(each["over greedy"]))
            )  # fmt: skip
            lost += [len(each["greedy"]) < len(each["weights"])] if each["over greedy"][2] < 0 else []
    words = (
        f"It is ahead of both beyond chance in {_listed(won)}. "
        if won
        else "It is nowhere ahead of both beyond chance. "
    )
    if lost and all(lost):
        words += (
            "Where the greedy soup is ahead, it has left experts out. SoCE cannot: the expert of every weakly correlated "
            "category gets a tenth at least, and in these worlds every skill that is asked has an expert of its own, so that "
            "of many experts few tenths are left to deal."
        )
    head = ("world, experts", "SoCE (weights)", "equal weights", "greedy", "over equal", "over greedy")
    return [
        "**The Soup Of Category Experts**, each skill a category:",
        "",
        *table(head, rows),
        "",
        words.strip(),
        "",
    ]


def _on_flow(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for each in found.values():
        planted, real = each["planted"], each["real"]
        spoilt = " and ".join(f"{score:.2f}" for score in planted["spoilt"].values())
        lines += [
            f"**The order of layers.** Two copies of an expert of four layers, each with another layer spoilt, score {spoilt}; "
            f"the path that `mergery flow` finds through both in {planted['tried']} tries scores {planted['score']:.2f}, the "
            f"expert {planted['whole']:.2f}. Of two real experts ({', '.join(real['pair'])}) the path found in {real['tried']} "
            f"tries scores {real['score']:.3f} on both skills, {_told(real['over alone'])} against the better one alone, and "
            f"{_told(real['over linear'])} against their plain average.",
            "",
        ]  # fmt: skip
        if real["over alone"][1] <= 0:
            lines[-2] += (
                " So on a real pair it gains nothing here: with two layers between the ends there is little to choose from."
            )
    return lines


def _on_samplers(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for world, each in found.items():
        rows = [
            (name, f"{own['score']:.3f}", "" if name == "random" else _told(own["over random"]))
            for name, own in each.items()
        ]
        lines += [
            f"**Samplers**, sixty candidates each, for the weights of all experts in a sum ({world.split()[0]}):",
            "",
            *table(("sampler", "score", "over random"), rows),
            "",
        ]
    return lines


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
