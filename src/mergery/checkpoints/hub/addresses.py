"""How people name a model of the hub: `org/name`, `org/name@revision`, an address on the web, a folder of the hub's cache."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from mergery.errors import CheckpointError, Where

HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co")
_ID = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_NAMED = re.compile(rf"(?P<repo>{_ID})(?:@(?P<revision>[^@\s]+))?", re.ASCII)
_WEB = re.compile(r"(?P<scheme>https?|hf)://(?P<rest>[^?#]*)")
_CACHED = re.compile(r"models--(?P<org>[\w.-]+?)(?:--(?P<name>[\w.-]+))?", re.ASCII)

# Models of the hub's first years, which are known without the name of an owner.
FIRST = (
    "gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2", "bert-base-uncased", "bert-base-cased", "bert-large-uncased",
    "bert-large-cased", "bert-base-multilingual-cased", "bert-base-multilingual-uncased", "bert-base-chinese", "roberta-base",
    "roberta-large", "distilroberta-base", "distilbert-base-uncased", "distilbert-base-cased", "albert-base-v2", "t5-small",
    "t5-base", "t5-large", "t5-3b", "t5-11b", "xlm-roberta-base", "xlm-roberta-large", "xlnet-base-cased", "camembert-base",
    "openai-gpt",
)  # fmt: skip


class Address(NamedTuple):
    """A model on the hub, and which branch, tag or commit of it; None for its main branch."""

    repo: str
    revision: str | None = None


def read_address(text: str, revision: str | None = None) -> Address | None:
    """The model of the hub that a text names; None where it names none. `revision` is what was said beside it.

    Raises CheckpointError for an address on the web that is no model's, and for two revisions.
    """
    found = _from_web(text) if _WEB.fullmatch(text.partition("?")[0]) else _named(text)
    if found is None or revision is None or found.revision in (None, revision):
        return found and Address(found.repo, found.revision or revision)
    raise CheckpointError(
        f"two revisions are named: {found.revision!r} and {revision!r}",
        where=Where(text),
        hint=f"name the model {found.repo}, and the revision once",
    )


def _named(text: str) -> Address | None:
    if text in FIRST:
        return Address(text)
    match = _NAMED.fullmatch(text)
    return Address(match["repo"], match["revision"]) if match else None


def _from_web(text: str) -> Address:
    match = _WEB.match(text)
    assert match is not None
    parts = [unquote(part) for part in match["rest"].split("/") if part]
    own = os.environ.get("HF_ENDPOINT", "").partition("://")[2].strip("/")
    if match["scheme"] != "hf" and parts[:1] and parts[0] not in (*HOSTS, own):
        hint = "download the model, and name its folder"
        raise CheckpointError("a model is not read from an address on the web", where=Where(text), hint=hint)
    parts = parts if match["scheme"] == "hf" else parts[1:]
    if parts[:1] == ["models"]:
        parts = parts[1:]
    found = _named("/".join(parts[:2]))
    if found is None or parts[0] in ("datasets", "spaces", "docs", "papers", "collections", "api"):
        what = "this address is not a model's"
        raise CheckpointError(what, where=Where(text), hint="name the model by its id on the hub: org/name")
    if parts[2:3] == ["tree"] and len(parts) > 3:
        return Address(found.repo, "/".join(parts[3:]))
    if len(parts) > 2:
        why = f"it names {'/'.join(parts[2:])} within {found.repo}"
        hint = f"name the model: {found.repo}, or {found.repo}@REVISION"
        raise CheckpointError(
            "this address is of a file or a page, not of a model", where=Where(text), why=why, hint=hint
        )
    return found


def cached_snapshot(path: Path, revision: str | None) -> Path | None:
    """The folder of a model's files within its folder in the hub's cache; None for any other folder.

    Such a folder is called `models--org--name`; `refs/main` in it names the commit under `snapshots/`. Raises
    CheckpointError where the revision is not there.
    """
    snapshots, refs = path / "snapshots", path / "refs"
    if not snapshots.is_dir() or not (refs.is_dir() or _CACHED.fullmatch(path.resolve().name)):
        return None
    commits = sorted(entry.name for entry in snapshots.iterdir() if entry.is_dir())
    wanted, ref = revision or "main", refs / (revision or "main")
    if not ref.resolve().is_relative_to(refs.resolve()):
        ref = refs / "main"
    named = ref.read_text(encoding="utf-8", errors="replace").strip() if ref.is_file() else wanted
    if named in commits:
        return snapshots / named
    if revision is None and len(commits) == 1:
        return snapshots / commits[0]
    why = f"snapshots are here of {', '.join(commits[:3])}" if commits else "it holds no snapshot"
    hint = f"name one of them: {snapshots / commits[-1]}" if commits else "download the model again"
    what = f"this folder of the hub's cache has no revision {wanted!r}"
    raise CheckpointError(what, where=Where(str(path)), why=why, hint=hint)
