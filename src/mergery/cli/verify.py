"""`mergery verify`."""

from __future__ import annotations

import sys
from pathlib import Path

from mergery.cli.common import Json, Quiet, Verbose, flowing


@flowing
def verify(
    folder: Path, /, *, sample: int = 0, json: Json = False, quiet: Quiet = False, verbose: Verbose = False
) -> None:
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

    with reporter(json=json, quiet=quiet, verbose=verbose) as report:
        wrong = api.verify(folder, sample=sample, on_event=report.event)
    if not json and wrong:
        print("\n".join(f"mergery: {line}" for line in wrong), file=sys.stderr)
    elif not json and not quiet:
        again = f"; {sample} tensors made again came out the same" if sample else ""
        print(f"{folder} is what its lock says{again}")
    if wrong:
        sys.exit(1)
