"""A small hub on this machine, for tests without a network.

It answers the requests that `huggingface_hub` makes for models, and serves folders as models with commits,
revisions, range requests, gates and, as the real hub does, weight files by redirect to another host. Those who
carry a token of `writers` may make models and commits: small files come with the commit, weights before it. Every
request is kept, so that a test can say which bytes were asked for.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

LARGE_SUFFIXES = (".safetensors", ".bin", ".pt")
_API = re.compile(r"/api/models/(?P<repo>[^/]+(?:/[^/]+)?)(?:/revision/(?P<revision>.+))?")
_RESOLVE = re.compile(r"/(?P<repo>[^/]+(?:/[^/]+)?)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_STORE = re.compile(r"/store/(?P<digest>[0-9a-f]{64})")
_PREUPLOAD = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>.+)")
_BATCH = re.compile(r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
_COMMIT = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>.+)")


@dataclass(frozen=True)
class Request:
    """One answered request. `range` is the first and last byte asked for, `sent` the bytes answered."""

    method: str
    path: str
    range: tuple[int, int] | None
    status: int
    sent: int
    authorised: bool
    agent: str


@dataclass
class _Repo:
    commits: dict[str, Path] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    private: bool = False
    messages: list[str] = field(default_factory=list)


class HubServer:
    """Serves folders as hub models at `url`. Use as a context manager.

    With `ranges` false, range requests are answered by whole files, as some mirrors do. What is pushed by `writers`, tokens
    by organisation, is kept under the folder `pushed`.
    """

    def __init__(
        self, *, ranges: bool = True, writers: Mapping[str, str] | None = None, pushed: Path | None = None
    ) -> None:
        self.ranges, self.writers, self.pushed = ranges, dict(writers or {}), pushed
        self.requests: list[Request] = []
        self._repos: dict[str, _Repo] = {}
        self._store: dict[str, Path] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._connections: set[socket.socket] = set()
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def store_url(self) -> str:
        """Weight files are redirected here: the same server under another host name."""
        return f"http://localhost:{self._server.server_port}"

    def add(self, repo: str, folder: Path, *, revision: str = "main", token: str | None = None) -> str:
        """Publish a folder's present state as a commit of `repo`, and return the commit.

        With `token`, the files are gated: they are served to requests that carry it.
        """
        entry = self._repos.setdefault(repo, _Repo())
        entry.token = token
        digest = hashlib.sha1(repo.encode())
        for name, path in _files(folder).items():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
            self._store[content] = path
            digest.update(f"{name} {content}\n".encode())
        commit = digest.hexdigest()
        entry.commits[commit] = folder
        entry.revisions[revision] = commit
        return commit

    def repo(self, name: str) -> _Repo:
        """What is kept of a model: its commits, in order, with their folders."""
        return self._repos[name]

    def asked(self, file: str) -> list[Request]:
        """The requests for a file's content, in order, whether answered directly or from the store."""
        digests = {digest for digest, path in self._store.items() if path.name == Path(file).name}
        return [
            request
            for request in self.requests
            if request.method == "GET"
            and request.status in (200, 206)
            and (request.path.endswith(f"/{file}") or request.path.rpartition("/")[2] in digests)
        ]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Go off the network: no new connections, and the open ones are cut. May be called twice."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.hub._connections.add(self.connection)

    def finish(self) -> None:
        self.hub._connections.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        if match := _STORE.fullmatch(path):
            self._send_file(self.hub._store[match["digest"]], match["digest"], {})
        elif match := _API.fullmatch(path):
            self._describe(match["repo"], match["revision"], parse_qs(url.query))
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(match["repo"], match["revision"], match["file"])
        else:
            self._fail(404, "", "not found")

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":  # of a card's front matter
            told = (
                []
                if json.loads(body)["content"].startswith("---\n")
                else [{"message": "empty or missing yaml metadata"}]
            )
            self._send(200, json.dumps({"errors": [], "warnings": told}).encode())
        elif match := _PREUPLOAD.fullmatch(path):
            files = [
                {"path": each["path"], "shouldIgnore": False, "uploadMode": _mode(each["path"])}
                for each in json.loads(body)["files"]
            ]
            self._send(200, json.dumps({"files": files}).encode())
        elif match := _BATCH.fullmatch(path):
            self._announce(json.loads(body)["objects"])
        elif match := _COMMIT.fullmatch(path):
            self._commit(match["repo"], match["revision"], [json.loads(line) for line in body.splitlines() if line])
        else:
            self._fail(404, "", "not found")

    def do_PUT(self) -> None:
        """Bytes of a weight file, at the place that was announced for them."""
        digest = self.path.rpartition("/")[2]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if hashlib.sha256(body).hexdigest() != digest or self.hub.pushed is None:
            self._fail(400, "", "these are not the bytes that were announced")
            return
        path = self.hub.pushed / "store" / digest
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        self.hub._store[digest] = path
        self._send(200, b"")

    def _may_write(self, organisation: str) -> bool:
        token = self.hub.writers.get(organisation)
        if token is None or self.headers.get("Authorization") != f"Bearer {token}":
            self._fail(403, "", f"You don't have the rights to create a model under the namespace {organisation!r}")
            return False
        return True

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if not self._may_write(asked["organization"]):
            return
        if name in self.hub._repos:
            self._fail(409, "", "You already created this model repo")
            return
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        entry = self.hub._repos[name] = _Repo(private=private)
        self._add_commit(name, entry, {})
        self._send(200, json.dumps({"url": f"{self.hub.url}/{name}", "id": name}).encode())

    def _announce(self, objects: list[dict[str, Any]]) -> None:
        """Where weights are to be sent; what is here already need not be."""
        found = []
        for each in objects:
            actions = {"upload": {"href": f"{self.hub.url}/upload/{each['oid']}"}}
            found.append({**each, **({} if each["oid"] in self.hub._store else {"actions": actions})})
        self._send(200, json.dumps({"transfer": "basic", "objects": found}).encode())

    def _commit(self, repo: str, revision: str, lines: list[dict[str, Any]]) -> None:
        entry = self.hub._repos.get(repo)
        if entry is None or not self._may_write(repo.partition("/")[0]):
            return self._fail(404, "RepoNotFound", "Repository not found") if entry is None else None
        head = entry.revisions[revision]
        files = {name: path.read_bytes() for name, path in _files(entry.commits[head]).items()}
        for line in lines:
            match line["key"], line["value"]:
                case "header", {"parentCommit": parent} if parent != head:
                    return self._fail(412, "", "the branch has moved on")
                case "header", {"summary": summary}:
                    entry.messages.append(summary)
                case "file", {"path": path, "content": content}:
                    files[path] = base64.b64decode(content)
                case "lfsFile", {"path": path, "oid": digest}:
                    files[path] = self.hub._store[digest].read_bytes()
                case "deletedFile", {"path": path}:
                    del files[path]
        commit = self._add_commit(repo, entry, files)
        address = f"{self.hub.url}/{repo}/commit/{commit}"
        self._send(200, json.dumps({"success": True, "commitUrl": address, "commitOid": commit}).encode())
        return None

    def _add_commit(self, repo: str, entry: _Repo, files: Mapping[str, bytes]) -> str:
        assert self.hub.pushed is not None
        folder = self.hub.pushed / repo / str(len(entry.commits))
        folder.mkdir(parents=True)
        for name, content in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return self.hub.add(repo, folder)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def _describe(self, repo: str, revision: str | None, query: dict[str, list[str]]) -> None:
        found = self._find(repo, revision or "main")
        if found is None:
            return
        _, commit, folder = found
        siblings: list[dict[str, Any]] = []
        for name, path in _files(folder).items():
            siblings.append({"rfilename": name} | ({"size": path.stat().st_size} if "blobs" in query else {}))
        self._send(200, json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode())

    def _resolve(self, repo: str, revision: str, file: str) -> None:
        found = self._find(repo, revision)
        if found is None:
            return
        entry, commit, folder = found
        if entry.token is not None and self.headers.get("Authorization") != f"Bearer {entry.token}":
            self._fail(403, "GatedRepo", f"Access to model {repo} is restricted")
            return
        path = _files(folder).get(file)
        if path is None:
            self._fail(404, "EntryNotFound", f"{file} does not exist", {"X-Repo-Commit": commit})
            return
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        headers = {"X-Repo-Commit": commit}
        if path.name.endswith(LARGE_SUFFIXES):
            headers |= {"X-Linked-Size": str(path.stat().st_size), "X-Linked-ETag": f'"{digest}"'}
            self._send(302, b"", headers | {"Location": f"{self.hub.store_url}/store/{digest}"})
        else:
            self._send_file(path, digest, headers)

    def _find(self, repo: str, revision: str) -> tuple[_Repo, str, Path] | None:
        entry = self.hub._repos.get(repo)
        if entry is None:
            self._fail(401, "RepoNotFound", "Repository not found")
            return None
        commit = entry.revisions.get(revision, revision)
        if commit not in entry.commits:
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return entry, commit, entry.commits[commit]

    def _send_file(self, path: Path, digest: str, headers: dict[str, str]) -> None:
        content = path.read_bytes()
        headers = headers | {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        span = self._range()
        if span is None or not self.hub.ranges:
            self._send(200, content, headers)
        elif span[0] >= len(content):
            self._send(416, b"", headers | {"Content-Range": f"bytes */{len(content)}"})
        else:
            first, last = span[0], min(span[1], len(content) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            self._send(206, content[first : last + 1], headers)

    def _range(self) -> tuple[int, int] | None:
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        return (int(match[1]), int(match[2])) if match else None

    def _fail(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        marks = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(status, json.dumps({"error": message}).encode(), {**marks, **(headers or {})})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        sent = 0 if self.command == "HEAD" else len(body)
        authorised = "Authorization" in self.headers
        agent = self.headers.get("User-Agent", "")
        self.hub.requests.append(
            Request(self.command, unquote(self.path), self._range(), status, sent, authorised, agent)
        )
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if sent:
            try:
                self.wfile.write(body)
            except (BrokenPipeError, ConnectionResetError):  # a client that has read enough hangs up
                self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are kept in `HubServer.requests`, not written to the terminal."""


def _mode(name: str) -> str:
    return "lfs" if name.endswith(LARGE_SUFFIXES) else "regular"


def _files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
