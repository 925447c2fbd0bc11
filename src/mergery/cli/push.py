"""`mergery push`."""

from __future__ import annotations

import sys
from pathlib import Path

from mergery.cli.common import DryRun, Telling, flowing


@flowing
def push(
    folder: Path,
    repo: str,
    /,
    *,
    private: bool = False,
    replace: bool = False,
    message: str = "A model merged with Mergery",
    dry_run: DryRun = False,
    telling: Telling = Telling(),
) -> None:
    """Put the model FOLDER with its card on the Hugging Face hub as REPO, in one commit.

    What was merged is looked at first: fragments, unfinished folders and those that lack files are refused. The token is that
    of `hf auth login`, or HF_TOKEN.

    Parameters
    ----------
    folder
        A model folder, as `mergery merge` writes it.
    repo
        ORG/NAME, the model on the hub. It is made where there is none.
    private
        Make the model one that others do not see.
    replace
        Make a commit that holds this model where REPO holds weights already.
    message
        Of the commit.
    """
    from mergery import api
    from mergery.errors import size
    from mergery.run.pushing import wrap

    if dry_run:
        parcel = wrap(folder.expanduser(), repo, replace=replace, only_told=True)
        files = {
            name: len(each) if isinstance(each, bytes) else each.stat().st_size for name, each in parcel.files.items()
        }
        facts = {"repo": repo, "new": parcel.there is None if parcel.asked else None, "files": files}
        facts |= {"delete": list(parcel.delete), "notes": list(parcel.notes)}
        if telling.json:
            from mergery.cli.common import print_json

            return print_json(facts)
        what = "is made with" if parcel.there is None else "gets a commit with"
        print(f"{repo} {what if parcel.asked else 'gets'} {len(files)} files, {size(parcel.nbytes)}:")
        print("\n".join(f"  {name}  {size(nbytes)}" for name, nbytes in files.items()))
        print("".join(f"  {name}  is deleted\n" for name in parcel.delete), end="")
        print("".join(f"note: {note}\n" for note in parcel.notes), end="")
        return None
    with telling.reporter() as report:
        bars = sys.stderr.isatty() and telling.in_words
        api.push(folder, repo, private=private, replace=replace, message=message, on_event=report.event, bars=bars)
    return None
