"""`mergery verify`."""

from __future__ import annotations

import sys
from pathlib import Path

from mergery.cli.common import Json, print_json


def verify(folder: Path, /, *, sample: int = 0, json: Json = False) -> None:
    """Check a merged model against its lock. Exits with code 1 when something has changed.

    Parameters
    ----------
    folder
        A folder that `mergery merge` wrote.
    sample
        Make that many tensors again from the inputs and compare their bytes.
    """
    from mergery import api
    from mergery.cli.progress import reporter

    report = reporter("json" if json else "auto")
    try:
        wrong = api.verify(folder, sample=sample, on_event=report.event)
    finally:
        report.close()
    if json:
        print_json({"event": "verified", "sound": not wrong, "wrong": wrong})
    elif wrong:
        print("\n".join(f"mergery: {line}" for line in wrong), file=sys.stderr)
    else:
        again = f"; {sample} tensors made again came out the same" if sample else ""
        print(f"{folder} is what its lock says{again}")
    if wrong:
        sys.exit(1)
