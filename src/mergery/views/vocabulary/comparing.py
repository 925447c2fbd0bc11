"""Whether models that are to be merged row by row mean the same tokens: what is told where a recipe says nothing of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mergery.checkpoints.base import Checkpoint
from mergery.checkpoints.memory import MEMORY
from mergery.checkpoints.tokenizer.reading import Tokenizer, fingerprint, read_tokenizer
from mergery.checkpoints.tokenizer.token_bytes import digits
from mergery.errors import MergeryError, Where
from mergery.graph.findings import Findings

OPTIONS = (
    "output: {tokenizer: base} keeps the base's tokens, {tokenizer: union} all models' tokens, "
    "{tokenizer: <model>} that model's"
)


class Tokenizers:
    """The tokenizers of models; equal files are read once."""

    def __init__(self) -> None:
        self.marks: dict[str, str] = {}
        self.read: dict[str, Tokenizer | MergeryError | None] = {}

    def mark(self, checkpoint: Checkpoint) -> str:
        """Equal for models with equal tokenizer files; empty where there are none. Raises MergeryError."""
        if checkpoint.location not in self.marks or checkpoint.location == MEMORY:
            self.marks[checkpoint.location] = fingerprint(checkpoint)
        return self.marks[checkpoint.location]

    def get(self, checkpoint: Checkpoint) -> Tokenizer | None:
        """Raises MergeryError where it cannot be read."""
        key = self.mark(checkpoint)
        if not key:
            return None
        if key not in self.read:
            try:
                self.read[key] = read_tokenizer(checkpoint)
            except MergeryError as error:
                self.read[key] = error
        found = self.read[key]
        if isinstance(found, MergeryError):
            raise found
        return found


def compare(
    checkpoints: Mapping[str, Checkpoint], tokenizers: Tokenizers, place: Where | None, findings: Findings
) -> None:
    """Compare the tokenizers of the merged models with the first one's, where the recipe says nothing of tokens.

    A token that two models have under different ids is an error: their rows would be mixed. Tokens that the output
    loses are a warning, as are tokenizers that cannot be read.
    """
    known: dict[str, Tokenizer] = {}
    marks: dict[str, str] = {}
    for name, checkpoint in checkpoints.items():
        try:
            marks[name] = tokenizers.mark(checkpoint)
        except MergeryError as error:
            findings.warnings.append(
                f"{name}: its tokenizer cannot be read ({error.what}); vocabularies are not compared"
            )
    if len({mark for mark in marks.values() if mark}) < 2:
        return
    for name, checkpoint in checkpoints.items():
        try:
            tokenizer = tokenizers.get(checkpoint) if marks.get(name) else None
        except MergeryError as error:
            findings.warnings.append(
                f"{name}: its tokenizer cannot be read ({error.what}); its tokens are not compared"
            )
            continue
        if tokenizer is not None:
            known[name] = tokenizer
    if len(known) < 2:
        return
    first, *others = known
    for name in others:
        if marks[name] != marks[first]:
            compare_two((first, known[first]), (name, known[name]), place, findings)
    findings.warnings += digit_warnings(known)


def compare_two(
    first: tuple[str, Tokenizer], other: tuple[str, Tokenizer], place: Where | None, findings: Findings
) -> None:
    mine, theirs = first[1].tokens, other[1].tokens
    moved = [token for token, index in theirs.items() if mine.get(token, index) != index]
    if moved:
        token = moved[0]
        findings.fail(
            f"the tokenizers of {first[0]!r} and {other[0]!r} give {len(moved):,} tokens other ids",
            where=place,
            why=f"{token!r} is {mine[token]} in {first[0]!r} and {theirs[token]} in {other[0]!r}: "
            "rows of different tokens would be mixed",
            hint=OPTIONS,
        )
        return
    lost = [token for token in theirs if token not in mine]
    if lost:
        findings.warnings.append(
            f"{other[0]} has {tokens_in_words(lost)} that {first[0]} lacks, and the output is not told of tokens; {OPTIONS}"
        )


def tokens_in_words(tokens: Sequence[str]) -> str:
    shown = ", ".join(repr(token) for token in tokens[:3])
    return f"the token {shown}" if len(tokens) == 1 else f"{len(tokens):,} tokens (such as {shown})"


def tokens_without_rows(tokenizer: Tokenizer | None, rows: int) -> list[str]:
    """Tokens whose ids are beyond the rows of the embeddings, in the order of ids; none where there are no embeddings."""
    beyond = {index: token for token, index in tokenizer.tokens.items() if index >= rows} if tokenizer and rows else {}
    return [beyond[index] for index in sorted(beyond)]


def digit_warnings(tokenizers: Mapping[str, Tokenizer]) -> list[str]:
    """Models that cut numbers in different ways lose arithmetic with each other's vocabulary."""
    ways: dict[str, list[str]] = {}
    for name, tokenizer in tokenizers.items():
        ways.setdefault(digits(tokenizer), []).append(name)
    if len(ways) < 2:
        return []
    parts = ", ".join(f"{' and '.join(names)} into {way}" for way, names in ways.items())
    return [f"tokenizers cut numbers in different ways: {parts}; expect arithmetic to suffer"]


def explain_shapes(
    tokenizers: Tokenizers, mine: tuple[str, Checkpoint, int], theirs: tuple[str, Checkpoint, int]
) -> tuple[str, str]:
    """Why the rows of two models' embeddings differ in number, and what to do: (name, checkpoint, rows) each."""
    names = (mine[0], theirs[0])
    try:
        a, b = (tokenizers.get(each[1]) for each in (mine, theirs))
    except MergeryError as error:
        return "the vocabularies differ in size", f"{OPTIONS}; but a tokenizer cannot be read: {error.what}"
    if a is None or b is None:
        lacking = names[0] if a is None else names[1]
        return (
            "the vocabularies differ in size",
            f"{lacking!r} has no tokenizer: put its tokenizer files into its folder",
        )
    if a.tokens == b.tokens:
        why = f"their tokenizers are the same, {len(a.tokens):,} tokens; the rows beyond are padding"
        return why, "output: {tokenizer: base} takes as many rows as the base has"
    extra = [token for token in b.tokens if token not in a.tokens]
    missing = [token for token in a.tokens if token not in b.tokens]
    parts = [
        f"{n!r} has {tokens_in_words(t)} that the other lacks" for n, t in ((names[1], extra), (names[0], missing)) if t
    ]
    return "the vocabularies differ: " + (" and ".join(parts) or "the same tokens have other ids"), OPTIONS
