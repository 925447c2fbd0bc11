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
        *_on_relay(kept.get("relay", {})),
        *_on_samplers(kept.get("samplers", {})),
    ]  # fmt: skip


def _told(gain: Sequence[float]) -> str:
    return f"{gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}]"


def _named(piece: str) -> str:
    """`sequences 1` as words."""
    world, seed = piece.split()
    return f"{world}, seed {seed}"


def _marked(piece: str, found: Mapping[str, Any]) -> str:
    return f"{_named(piece)} \\*" if found.get("earlier") else _named(piece)


def _note(pieces: Sequence[tuple[str, Any]]) -> str:
    """Said where a piece was measured when some methods had other settings by default."""
    told = " \\* Measured before sums and spectral methods found their scale by themselves where none is set."
    return told if any(each.get("earlier") for _, each in pieces) else ""


def _in_order(found: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Pieces by their worlds, as they were first measured, and by their seeds."""
    worlds = list(dict.fromkeys(piece.split()[0] for piece in found))
    return sorted(found.items(), key=lambda each: (worlds.index(each[0].split()[0]), int(each[0].split()[1])))


def _counted(gains: Sequence[Sequence[float]]) -> str:
    """In how many pieces one is ahead beyond chance, and in how many behind."""
    ahead, behind = sum(gain[1] > 0 for gain in gains), sum(gain[2] < 0 for gain in gains)
    return f"ahead beyond chance in {ahead} of {len(gains)}, behind in {behind or 'none'}"


def _on_search(found: Mapping[str, Any], methods: int) -> list[str]:
    if not found:
        return []
    pieces = _in_order(found)
    rows = [
        (_marked(piece, each), f"`{each['rival']}` {each['defaults'][each['rival']]:.3f}",
         f"`{each['method']}` {each['score']:.3f}", _told(each["gain"]),
         _told(each["same"]), each["candidates"], f"{each['core'] / 60:.1f}")
        for piece, each in pieces
    ]  # fmt: skip
    head = (
        "models",
        "best with nothing set",
        "searched",
        "gain",
        "of the weights alone",
        "candidates",
        "minutes of a core",
    )
    return [
        "**Weights searched.** CMA-ES over a weight for each expert, of the method that is best on the items to choose by of "
        f"those with weights, against the best of {methods} methods with nothing set, chosen in hindsight. The gain of the "
        "weights alone is over the same method with nothing set. A search ends with 150 candidates, or after a quarter of an "
        "hour, which a busy machine reaches sooner:",
        "",
        *table(head, rows),
        "",
        f"It is {_counted([each['gain'] for _, each in pieces])}.{_note(pieces)}",
        "",
    ]  # fmt: skip


def _on_auto(found: Mapping[str, Any], planted: Mapping[str, Any]) -> list[str]:
    lines = []
    if found:
        pieces = _in_order(found)
        rows = [
            (_marked(piece, each), f"{each['chosen']} {each['score']:.3f}", f"`{each['rival']}` {each['best']:.3f}",
             _told(each["gain"]), f"{each['core'] / 60:.1f}" if "core" in each else "")
            for piece, each in pieces
        ]  # fmt: skip
        lines += [
            "**`mergery auto`**, with six minutes, against the best method with nothing set, chosen in hindsight:",
            "",
            *table(("models", "chosen", "best in hindsight", "difference", "minutes of a core"), rows),
            "",
            f"It is {_counted([each['gain'] for _, each in pieces])}.{_note(pieces)}",
            "",
        ]
    if planted:
        right = sum(not each["merge"] for each in planted.values())
        first, *_ = planted.values()
        lines += [
            "Asked for the skill of one expert alone, where no merge can be better than that expert, it says not to merge in "
            f"{right} of {len(planted)} ({', '.join(_named(piece) for piece, _ in _in_order(planted))}). In its words: "
            f"*{first['words']}*.",
            "",
        ]  # fmt: skip
        lines += [
            f"In {_named(piece)} it is wrong: *{each['words']}*.\n"
            for piece, each in _in_order(planted)
            if each["merge"]
        ]
    return lines


def _on_soups(found: Mapping[str, Any], few: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    rows, lost, won = [], [], []
    pieces = dict.fromkeys([*found, *few])
    for world, _ in _in_order(pieces):
        for count, each in {**found.get(world, {}), **few.get(world, {})}.items():
            number, _, asked = count.partition(",")
            name = f"{_named(world)}, {number} experts" + (f",{asked}" if asked else "")
            won += [name] if min(each["over uniform"][1], each["over greedy"][1]) > 0 else []
            told = ", ".join(f"{weight:.1f}" for weight in each["weights"].values())
            rows.append(
                (name, f"{each['score']:.3f} ({told})", f"{each['uniform']:.3f}",
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
    head = ("models, experts", "SoCE (weights)", "equal weights", "greedy", "over equal", "over greedy")
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


def _on_relay(found: Mapping[str, Any]) -> list[str]:
    """Paths through a pair of experts of eight layers, beside every merge."""
    if not found:
        return []
    rows, hops, ahead = [], [], {"over start": 0, "over merges": 0, "over alone": 0}
    for piece, goals in _in_order(found):
        for goal in ("side by side", "in sequence"):
            each = goals[goal]
            single, rival = each["alone"][each["single"]], each["merges"][each["rival"]]
            for kind, path in each["paths"].items():
                gains = ["" if kind == "hand-over" and over == "over start" else _told(path[over]) for over in ahead]
                rows.append(
                    (f"{goal}, seed {piece.split()[1]}", f"{each['single']} {single[0]:.3f}",
                     f"{each['rival']} {rival[0]:.3f}", f"{kind} {path['score']:.3f}", *gains)
                )  # fmt: skip
                for over in ahead:
                    ahead[over] += path[over][1] > 0 and (over != "over start" or kind != "hand-over")
        side = goals["side by side"]["hops"]
        told = ", ".join(f"`{name}` {loss:.2f}" for name, loss, _ in side[1:])
        idle = sum(loss < side[0][1] + 0.1 for _, loss, _ in side[1:])
        near, sequence = goals["alike"], goals["in sequence"]
        lowest = min(loss for _, loss in [*sequence["merges"].values(), *sequence["alone"].values()])
        best_path = sequence["paths"]["hand-over"]["loss"]
        hops.append(
            f"Seed {piece.split()[1]}: side by side the path from the merge has a loss of {side[0][1]:.2f} nats a token, and "
            f"without one hop {told}. So {idle} of {len(side) - 1} hops between the ends can be left out for less than a tenth "
            "of a nat: there is little in the middle that an order could change. In sequence the best hand-over has a loss of "
            f"{best_path:.2f}, and the best of merges and single models {lowest:.2f}: skills that were learnt apart do not "
            "follow each other by themselves. Nearest to the ruler's hidden states of a plain word, behind "
            f"{near['ruler layer']} layers, are the reader's of the same word in cipher behind {near['reader layer']}, with a "
            f"cosine of {near['cosine']:.2f} alone."
        )
    first = next(iter(found.values()))["side by side"]
    count = len(rows)
    head = (
        "asked",
        "best alone",
        "best merge",
        "path",
        *(over.replace("over start", "over its start") for over in ahead),
    )
    return [
        "**Two experts of eight layers, side by side and in sequence** (`python -m benchmarks.relay`). One learnt to read "
        "words in a cipher, the other new rules on plain words. Asked are both skills, and the new rules on words in cipher, "
        f"which needs both and which no model has seen. Paths are the best of {first['handed']} hand-overs from a layer of one "
        "to a layer of the other, by their loss, and what greedy changes make of the best merge with both experts as sources "
        f"of layers ({first['tried']} tries). Single models and merges are the best in hindsight, merges of "
        f"{len(first['merges'])}: methods with nothing set, and sums by sixteen pairs of weights.",
        "",
        *table(head, rows, left=head[1:4]),
        "",
        f"Of {count} paths {ahead['over alone']} are ahead of the best single model beyond chance, {ahead['over merges']} of "
        f"the best merge, and of the {count // 2} that begin with a merge {ahead['over start']} of that merge.",
        "",
        *[line for words in hops for line in (words, "")],
    ]  # fmt: skip


def _on_samplers(found: Mapping[str, Any]) -> list[str]:
    lines = []
    for world, each in found.items():
        rows = [
            (name, f"{own['score']:.3f}", "" if name == "random" else _told(own["over random"]))
            for name, own in each.items()
        ]
        lines += [
            f"**Samplers**, sixty candidates each, for the weights of all experts in a sum ({_named(world)}):",
            "",
            *table(("sampler", "score", "over random"), rows),
            "",
        ]
    return lines


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
