"""Files as one commit of a model on the Hugging Face hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from mergery.checkpoints.hub.remote import is_network_failure
from mergery.errors import CheckpointError, Where
from mergery.version import __version__

LOGIN = "run `hf auth login` with a token that may write, or set HF_TOKEN to one"


class Repository(NamedTuple):
    """What a model on the hub holds now."""

    commit: str | None
    files: frozenset[str]


class Commit(NamedTuple):
    """A commit that has been made, and where it is seen."""

    digest: str
    address: str


def look(repo: str) -> Repository | None:
    """The files of a model on the hub; None where there is none that this user may see. Raises CheckpointError."""
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        raise CheckpointError("nothing can be pushed while HF_HUB_OFFLINE is set", hint="unset it")
    if get_token() is None:
        raise CheckpointError("nobody is logged in to the hub", hint=LOGIN)
    with explained(repo):
        try:
            info = HfApi(library_name="mergery", library_version=__version__).model_info(repo, timeout=30)
        except RepositoryNotFoundError:
            return None
    return Repository(info.sha, frozenset(entry.rfilename for entry in info.siblings or []))


def commit_files(
    repo: str,
    files: Mapping[str, Path | bytes],
    delete: Sequence[str],
    *,
    there: Repository | None,
    private: bool,
    message: str,
    bars: bool,
) -> Commit:
    """Make a model hold these files and no longer those to delete, in one commit; it is made where it is not `there`.

    Raises CheckpointError, also where the model has been changed since it was looked at.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    additions = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in files.items()
    ]
    deletions = [CommitOperationDelete(name) for name in delete]
    api = HfApi(library_name="mergery", library_version=__version__)
    with explained(repo), progress_bars(bars):
        if there is None:
            api.create_repo(repo, private=private or None)
        done = api.create_commit(
            repo,
            [*additions, *deletions],
            commit_message=message,
            parent_commit=there.commit if there and there.commit else None,
        )
    return Commit(done.oid, done.commit_url)


@contextlib.contextmanager
def progress_bars(shown: bool) -> Iterator[None]:
    """The hub's own bars, or none."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


@contextlib.contextmanager
def explained(repo: str) -> Iterator[None]:
    """Turn whatever the hub's client raises into one clear message."""
    from huggingface_hub import errors as hub

    try:
        yield
    except CheckpointError:
        raise
    except hub.HFValidationError as error:
        why = str(error).splitlines()[0]
        raise CheckpointError(
            "this is no id of a model on the hub", where=Where(repo), why=why, hint="ORG/NAME"
        ) from None
    except hub.HfHubHTTPError as error:
        status, why = error.response.status_code, error.server_message or str(error).splitlines()[0]
        if status in (401, 403, 404):
            raise CheckpointError(
                "the hub lets you write no such model", where=Where(repo), why=why, hint=LOGIN
            ) from None
        if status in (409, 412):
            what = "the model was changed on the hub meanwhile"
            raise CheckpointError(what, where=Where(repo), why=why, hint="run the same command again") from None
        what = f"the hub answered with status {status}"
        raise CheckpointError(what, where=Where(repo), why=why, hint="try again later") from None
    except Exception as error:
        if isinstance(error, ValueError) and "README.md" in str(error):
            why = " ".join(str(error).split())
            raise CheckpointError(
                "the hub does not take the card", where=Where(repo), why=why, hint="mend it"
            ) from None
        if not is_network_failure(error):
            raise
        why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        hint = "check the connection, and run the same command again"
        raise CheckpointError("the hub cannot be reached", where=Where(repo), why=why, hint=hint) from None
