"""`mergery verify`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mergery.cli.common import CHUNK, RecipeFile, Telling, Threads, flowing, run_options

if TYPE_CHECKING:
    from mergery.run.proving import Proof

CODES = {"proven": 0, "within rounding": 0, "wrong": 1, "inconclusive": 3}
SHOWN = 10  # tensors


@flowing
def verify(
    folder: Path,
    /,
    *,
    sample: int = 0,
    base: str | None = None,
    adapter: str | None = None,
    recipe: RecipeFile | None = None,
    threads: Threads = 0,
    telling: Telling = Telling(),
) -> None:
    """Check a merged model against its lock, or against what should have been made.

    With --base and --adapter, or with --recipe, FOLDER may be of any tool: every tensor is made again and compared. It is
    proven to the bit, within rounding, wrong, or nothing can be told. Exits with code 1 where something has changed or is
    wrong, and with 3 where nothing can be told.

    Parameters
    ----------
    folder
        A folder that `mergery merge` wrote; with --base or --recipe, a model of any tool.
    sample
        Make that many tensors again from the inputs and compare their bytes.
    base
        The model on which the adapter was merged.
    adapter
        The adapter that was merged into it; several with + between.
    recipe
        The recipe, of Mergery or mergekit, that FOLDER should be the result of.
    """
    from mergery import api
    from mergery.errors import RecipeError
    from mergery.run.lock import read_lock
    from mergery.run.verifying import able

    if (base is None) != (adapter is None) or (base is not None and recipe is not None):
        raise RecipeError("--base and --adapter belong together", hint="or give --recipe alone")
    proof, wrong = None, []
    with telling.reporter() as report:
        if base is None and recipe is None:
            wrong = api.verify(folder, sample=sample, on_event=report.event)
        else:
            made = {"base": base, "adapter": adapter, "recipe": recipe}
            proof = api.prove(folder, **made, options=run_options(threads, CHUNK), on_event=report.event)
    if proof is not None:
        if telling.in_words:
            say(proof)
        code = CODES[proof.outcome]
    else:
        code = int(bool(wrong))
        if not telling.json and wrong:
            print("\n".join(f"mergery: {line}" for line in wrong), file=sys.stderr)
        elif telling.in_words:
            count = min(sample, len(able(read_lock(folder)))) if sample else 0
            again = f"; {count} tensors made again came out the same" if sample else ""
            print(f"{folder} is what its lock says{again}")
    if code:
        sys.exit(code)


def say(proof: Proof) -> None:
    """Print what was found of a folder."""
    from mergery.run.proving import words_of

    count = len(proof.tensors)
    told = {
        "proven": f"proven: all {count} tensors are to the bit what {proof.way} makes",
        "within rounding": f"within rounding: all {count} tensors are what should be made, rounded elsewhere on the way",
        "wrong": "wrong: it is not what should be made",
        "inconclusive": "inconclusive: nothing can be told",
    }
    print(f"{proof.folder}: {told[proof.outcome]}")
    wanted = {"wrong": "wrong", "inconclusive": "inconclusive"}.get(proof.outcome)
    named = [each for each in proof.tensors if each.outcome == wanted]
    for each in sorted(named, key=lambda each: -each.off if each.off != float("inf") else 0.0)[:SHOWN]:
        print(f"  {words_of(each)}")
    if len(named) > SHOWN:
        print(f"  and {len(named) - SHOWN} more")
    if proof.outcome == "inconclusive" and not named:
        print("  what was changed is less than a rounding of its dtype")
