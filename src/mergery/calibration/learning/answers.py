"""What a model answers, and where: the rows of logits that count, and what they should say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from mergery.calibration.data import ROWS, Row
from mergery.errors import CheckpointError

Kind = Literal["labels", "pairs", "text"]
LOGITS = 1 << 28  # bytes of the logits of rows that are run at once


def count(row: Row, kind: Kind) -> int:
    """How many answers a row has: one of a classifier, else one for each token that is foretold."""
    if kind == "labels":
        return 1
    return len(row.answer) - (kind == "text" and not row.prompt)


def together(rows: Sequence[Row], numbers: Sequence[int], config: Any) -> list[list[int]]:
    """Numbers of rows that are run at once, those of like length: about 4096 tokens, fewer of a large vocabulary."""
    words = int(getattr(getattr(config, "text_config", None) or config, "vocab_size", 1))
    most = min(ROWS, LOGITS // (4 * words))
    padded = getattr(config, "pad_token_id", None) is not None or not _classifies(config)
    found: list[list[int]] = []
    longest = 0
    for number in sorted(numbers, key=lambda number: (-len(rows[number].tokens), number)):
        length = len(rows[number].tokens)
        full = bool(found) and (longest * (len(found[-1]) + 1) > most or (length != longest and not padded))
        if not found or full:
            found.append([])
            longest = length
        found[-1].append(number)
    return found


def _classifies(config: Any) -> bool:
    return any("ForSequenceClassification" in name for name in getattr(config, "architectures", None) or ())


def padded_inputs(rows: Sequence[Row], config: Any) -> dict[str, Any]:
    """What the model is given for rows: padded behind their ends, and told where these are."""
    pad = getattr(config, "pad_token_id", None) or 0
    if not getattr(config, "is_encoder_decoder", False):
        ids, mask = _filled([row.tokens for row in rows], pad)
        return {"input_ids": ids, "attention_mask": mask}
    start = getattr(config, "decoder_start_token_id", None)
    if start is None:
        raise CheckpointError("config.json has no decoder_start_token_id", hint="the decoder's first token")
    ids, mask = _filled([row.prompt for row in rows], pad)
    before, own = _filled([(start, *row.answer[:-1]) for row in rows], pad)
    return {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": before, "decoder_attention_mask": own}


def _filled(rows: Sequence[Sequence[int]], pad: int) -> tuple[Any, Any]:
    """Rows of one length (rows, longest), and where their own tokens are."""
    import torch

    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask


def logits(module: Any, rows: Sequence[Row], kind: Kind) -> Any:
    """The logits (answers, classes or tokens) of rows, those of one row behind those of the one before."""
    import torch

    out = module(**padded_inputs(rows, module.config)).logits
    if kind == "labels":
        return out
    if kind == "pairs":
        return torch.cat([one[: len(row.answer)] for one, row in zip(out, rows, strict=True)])
    spans = [(max(0, len(row.prompt) - 1), len(row.tokens) - 1) for row in rows]
    return torch.cat([one[start:stop] for one, (start, stop) in zip(out, spans, strict=True)])


def targets(rows: Sequence[Row], kind: Kind) -> Any:
    """What the answers should be (answers,): labels or tokens."""
    import torch

    if kind == "labels":
        return torch.tensor([-1 if row.label is None else row.label for row in rows])
    return torch.tensor([token for row in rows for token in row.answer[len(row.answer) - count(row, kind) :]])
