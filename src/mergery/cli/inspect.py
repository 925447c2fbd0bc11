"""`mergery inspect`."""

from __future__ import annotations

from mergery.cli.common import Json, print_json


def inspect(checkpoint: str, /, *others: str, json: Json = False) -> None:
    """Show what a model is and, with OTHERS, what may be merged with it and why not. Reads headers only.

    Parameters
    ----------
    checkpoint
        A model folder, a weight file or a hub id.
    others
        Models that might be merged with it.
    """
    from mergery import api
    from mergery.cli.progress import show_checkpoint

    facts = api.inspect(checkpoint, others)
    if json:
        print_json(facts)
    else:
        show_checkpoint(facts)
