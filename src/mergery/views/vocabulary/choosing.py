"""Which tokens the output has, under which ids, and which model gives the row of each.

The lead's tokens keep their ids. With a union, the other models' new tokens follow, model by model in the order of
their ids, and then tokens that the recipe adds. Every model gets its rows in this order:

- its own row, where it has the token;
- else the base's row, so that the difference from the base is zero there;
- else, where there is no base or the base lacks the token too, the only model's row, or the mean of those that have it;
- else, where no merged model has it, a row that is made (`filling`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mergery.checkpoints.tokenizer.reading import Tokenizer
from mergery.checkpoints.tokenizer.token_bytes import meaning
from mergery.errors import PlanError
from mergery.recipe import TokenRow, Vocabulary

ZERO, AVERAGE, UNKNOWN, GROUPS = -1, -2, -3, -4  # givers that are no model; groups count down from GROUPS
SPARE = 1 << 16  # ids that may be without a token, whatever the number of tokens


@dataclass(frozen=True)
class Member:
    """A model whose rows are put into the output's order."""

    name: str
    tokenizer: Tokenizer
    rows: int  # of its embeddings
    merged: bool = True  # else only single rows are taken, where the recipe says so


@dataclass(frozen=True, eq=False)
class Chosen:
    """The output's vocabulary. `tokens` stand in the order of their ids."""

    lead: Tokenizer
    tokens: Mapping[str, int]
    origin: Mapping[str, str]  # token that the lead lacks -> the model that it comes from
    created: Mapping[str, bool]  # token that no model has -> whether it is a special one
    left_out: tuple[str, ...]  # tokens of the lead that have no row

    @property
    def end(self) -> int:
        return max(self.tokens.values(), default=-1) + 1


@dataclass(frozen=True, eq=False)
class Rows:
    """Who gives each row. `giver[i]` is the place of a model in `names`, ZERO, AVERAGE, UNKNOWN or GROUPS - group;
    `row[i]` counts within the giver. `own[name]` is the row that a model has of each token itself, or -1."""

    names: tuple[str, ...]
    giver: np.ndarray
    row: np.ndarray
    own: Mapping[str, np.ndarray]
    forced: np.ndarray  # bool: these rows are not the models' own even where they have them
    groups: tuple[tuple[int, ...], ...]  # models whose rows are averaged
    group_rows: tuple[np.ndarray, ...]  # ids of the output that each group makes
    tokens: np.ndarray  # bool: whether an id is a token, and its row needs no average
    unknown: np.ndarray  # ids of tokens that no merged model has

    def of(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The giver and the row within it, for each row of one model's embeddings."""
        own = self.own[name]
        mine = (own >= 0) & ~self.forced
        return np.where(mine, self.names.index(name), self.giver), np.where(mine, own, self.row)


def choose_tokens(wanted: Vocabulary, lead: Tokenizer, rows: int | None, others: Sequence[Member]) -> Chosen:
    """The output's tokens. `rows` are the lead's, where it has a model; tokens beyond them are left out."""
    kept = sorted(lead.tokens.items(), key=lambda item: item[1])
    left_out = tuple(token for token, index in kept if rows is not None and index >= rows)
    tokens = {token: index for token, index in kept if rows is None or index < rows}
    last = max(tokens.values(), default=-1)
    origin: dict[str, str] = {}
    for member in others if wanted.source == "union" else ():
        for token, index in sorted(member.tokenizer.tokens.items(), key=lambda item: item[1]):
            if token not in tokens and index < member.rows:
                last += 1
                tokens[token], origin[token] = last, member.name
    created: dict[str, bool] = {}
    for token, special in [*wanted.add.items(), *((token, True) for token in wanted.tokens)]:
        if token in tokens:
            continue
        last += 1
        tokens[token] = last
        created[token] = special
    return Chosen(lead, tokens, origin, created, left_out)


def known_rows(chosen: Chosen, member: Member, size: int) -> np.ndarray:
    """The model's own row of each of the output's tokens; -1 where it has none."""
    result = np.full(size, -1, dtype=np.int64)
    theirs: Mapping[str, int] = member.tokenizer.tokens
    if member.tokenizer.kind == chosen.lead.kind:
        for token, index in chosen.tokens.items():
            row = theirs.get(token, -1)
            if row < member.rows:
                result[index] = row
        return result
    meanings: dict[tuple[bool, bytes], int] = {}
    for token, row in theirs.items():
        if row < member.rows:
            meanings.setdefault(meaning(token, member.tokenizer), row)
    for token, index in chosen.tokens.items():
        result[index] = meanings.get(meaning(token, chosen.lead), -1)
    return result


def count_rows(wanted: Vocabulary, chosen: Chosen, lead_rows: int | None) -> int:
    """Rows of the output's embeddings. Raises PlanError where ids lie so far apart that most would be empty."""
    size = chosen.end
    if size > 2 * len(chosen.tokens) + SPARE:
        why = f"{len(chosen.tokens):,} tokens have ids up to {size - 1:,}"
        raise PlanError(
            f"the ids of the tokenizer of {chosen.lead.label!r} lie too far apart",
            why=why,
            hint="check its tokenizer.json",
        )
    if wanted.padding == "keep" and lead_rows is not None:
        size = max(size, lead_rows)
    multiple = wanted.pad_to_multiple_of or 1
    return -(-size // multiple) * multiple


def assign_rows(
    wanted: Vocabulary, chosen: Chosen, members: Sequence[Member], base: str | None, lead: str | None, size: int
) -> Rows:
    """Who gives each of the `size` rows. `base` fills what others lack; `lead` gives rows that are no tokens.

    Raises PlanError for a row that the recipe wants and that is not there.
    """
    names = tuple(member.name for member in members)
    own = {member.name: known_rows(chosen, member, size) for member in members}
    giver, row = np.full(size, AVERAGE, dtype=np.int64), np.zeros(size, dtype=np.int64)
    is_token = np.zeros(size, dtype=bool)
    is_token[list(chosen.tokens.values())] = True
    merged = [place for place, member in enumerate(members) if member.merged]
    has = np.array([own[names[place]] >= 0 for place in merged])
    count = has.sum(axis=0)
    unknown = is_token & (count == 0)
    giver[unknown] = {"mean": AVERAGE, "zero": ZERO}.get(wanted.unknown, UNKNOWN)
    groups: dict[tuple[int, ...], list[int]] = {}
    filled = np.zeros(size, dtype=bool)
    if base is not None:
        filled = own[base] >= 0
        giver[filled], row[filled] = names.index(base), own[base][filled]
    for index in np.flatnonzero(is_token & (count > 0) & (count < len(merged)) & ~filled):
        holders = tuple(place for place, there in zip(merged, has[:, index], strict=True) if there)
        if len(holders) == 1:
            giver[index], row[index] = holders[0], own[names[holders[0]]][index]
        else:
            group = groups.setdefault(holders, [])
            giver[index], row[index] = GROUPS - list(groups).index(holders), len(group)
            group.append(int(index))
    _keep_padding(members, own, giver, row, is_token, lead)
    forced = np.zeros(size, dtype=bool)
    for token, control in wanted.tokens.items():
        index = chosen.tokens[token]
        giver[index], row[index] = _controlled(token, control, index, members, own)
        forced[index] = control.force
        unknown[index] = False
    left = np.flatnonzero(unknown)
    made = left[giver[left] == UNKNOWN]
    row[made] = np.arange(len(made))
    averaged = is_token & ~(unknown & (giver != ZERO))
    rows = tuple(np.array(group, dtype=np.int64) for group in groups.values())
    return Rows(names, giver, row, own, forced, tuple(groups), rows, averaged, left)


def _keep_padding(
    members: Sequence[Member],
    own: Mapping[str, np.ndarray],
    giver: np.ndarray,
    row: np.ndarray,
    is_token: np.ndarray,
    lead: str | None,
) -> None:
    """Rows that are no tokens stay where they are: each model's own, or the lead's for models that lack them."""
    if lead is None:
        return
    free = np.flatnonzero(~is_token)
    for member in members:
        taken = np.zeros(len(is_token), dtype=bool)
        used = np.array([index for index in member.tokenizer.tokens.values() if index < len(taken)], dtype=np.int64)
        taken[used] = True
        mine = free[(free < member.rows) & ~taken[free]]
        own[member.name][mine] = mine
        if member.name == lead:
            giver[mine], row[mine] = [each.name for each in members].index(lead), mine


def _controlled(
    token: str, control: TokenRow, index: int, members: Sequence[Member], own: Mapping[str, np.ndarray]
) -> tuple[int, int]:
    """The giver and the row that the recipe states for one token."""
    if control.model is None:
        return ZERO, 0
    place = next(place for place, member in enumerate(members) if member.name == control.model)
    member = members[place]
    if control.id is not None:
        row, what = control.id, f"no row {control.id}"
        row = row if row < member.rows else -1
        why = f"its embeddings have {member.rows:,} rows"
    elif control.token is not None:
        row, what = member.tokenizer.tokens.get(control.token, -1), f"no token {control.token!r}"
        row, why = (row, "") if row < member.rows else (-1, "")
    else:
        row, what, why = int(own[control.model][index]), f"no token {token!r}", "so it has no row to give"
    if row >= 0:
        return place, row
    hint = 'take another token\'s row: {like: "...", of: ' + control.model + "}" if control.token is None else ""
    raise PlanError(f"{control.model!r} has {what}", where=control.place, why=why, hint=hint)
