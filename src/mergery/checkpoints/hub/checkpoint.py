"""Models on the Hugging Face hub: headers are fetched by range, weights once the plan is sound."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergery.checkpoints.byte_files import ByteFile, LocalFile
from mergery.checkpoints.config import Config
from mergery.checkpoints.finding import open_weights
from mergery.checkpoints.formats import open_weight_file
from mergery.checkpoints.hub.remote import RemoteFile, explain, is_network_failure
from mergery.checkpoints.json_files import parse_config
from mergery.checkpoints.stored import StoredCheckpoint
from mergery.checkpoints.weights import WeightFile
from mergery.errors import CheckpointError, Where
from mergery.version import __version__

if TYPE_CHECKING:
    import numpy as np

HEADER_WORKERS, DOWNLOAD_WORKERS = 8, 4
CLOSED_SESSIONS = 5  # times that a download may find its session closed by another
CLOSED = ("client has been closed", "'NoneType' object has no attribute")  # what a thread meets then


class HubCheckpoint(StoredCheckpoint):
    """A model on the hub, by its id such as `org/name`, pinned to one commit from the moment it is opened.

    Opening fetches the file list, `config.json`, the shards' index, and of the weight files only the headers,
    by range requests; this holds for `.bin` files as well. `prepare` downloads the weights and the side files
    into the hub's cache; reading a weight does so too, where nobody has. Where the hub cannot be reached, a copy in the
    cache serves.
    """

    def __init__(
        self,
        repo: str,
        *,
        revision: str | None = None,
        label: str | None = None,
        endpoint: str | None = None,
        cache: Path | None = None,
    ) -> None:
        self.label, self.repo, self.revision = label or repo, repo, revision
        self._endpoint, self._cache = endpoint, cache
        self._preparing = threading.RLock()
        with self._explained():
            self.commit, self._sizes = self._list_files()
            self.location = f"{repo}@{self.commit}"
            if "config.json" in self._sizes:
                self._config = Config(parse_config(self._fetch("config.json"), f"{self.location}/config.json"))
            self._open()

    def _open(self) -> None:
        self._weights, self._contents = open_weights(list(self._sizes), self.location, self._fetch, self._open_files)
        self._here = not any(isinstance(file.bytes, RemoteFile) for file in self._weights.files.values())

    def file(self, name: str) -> bytes:
        with self._explained():
            return super().file(name)

    def read(self, name: str, start: int, stop: int, into: np.ndarray) -> None:
        self._fetch_once()
        super().read(name, start, stop, into)

    def glance(self, name: str, start: int, stop: int, into: np.ndarray) -> None:
        with self._explained():
            super().read(name, start, stop, into)

    def prepare(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Download the weight files and side files that the cache lacks, at the commit that was opened."""
        missing = [name for name in (*self._weights.files, *self.files) if self._cached(name) is None]
        counter = _Counter({name: self._sizes[name] for name in missing}, progress)
        with self._explained(), ThreadPoolExecutor(DOWNLOAD_WORKERS) as pool:
            for _ in pool.map(lambda name: self._download(name, counter), missing):
                pass
        if not self._here:
            with self._explained():
                self._open()
        self._remember_revision()

    def fingerprint(self) -> dict[str, Any]:
        return {"location": self.repo, "commit": self.commit}

    def stamp(self) -> dict[str, list[int]]:
        return {}  # a commit does not change

    def hash_contents(self, progress: Callable[[int, int], None] | None = None) -> dict[str, str]:
        self._fetch_once()
        return super().hash_contents(progress)

    def _fetch_once(self) -> None:
        """Have the weights on this machine. Threads that read at the same time wait for one download."""
        if not self._here:
            with self._preparing:
                if not self._here:
                    self.prepare()

    def _list_files(self) -> tuple[str, dict[str, int]]:
        """The commit, and sizes by file name: as the hub tells, or else as the cache holds them."""
        from huggingface_hub import HfApi

        try:
            api = HfApi(endpoint=self._endpoint, library_name="mergery", library_version=__version__)
            info = api.model_info(self.repo, revision=self.revision, files_metadata=True, timeout=30)
        except Exception as error:
            folder = self._cached_snapshot() if is_network_failure(error) else None
            if folder is None:
                raise
            paths = [path for path in folder.rglob("*") if path.is_file()]
            return folder.name, {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}
        if info.sha is None:
            raise CheckpointError("the hub tells no commit for this model", where=Where(self.repo), hint="try again")
        return info.sha, {entry.rfilename: entry.size or 0 for entry in info.siblings or []}

    def _cached_snapshot(self) -> Path | None:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            found = snapshot_download(
                self.repo,
                revision=self.revision,
                cache_dir=self._cache,
                local_files_only=True,
                endpoint=self._endpoint,
            )
        except LocalEntryNotFoundError as error:  # an incomplete snapshot may still hold all that is needed
            found = getattr(error, "snapshot_path", None)
        return Path(found) if found else None

    def _cached(self, name: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(self.repo, name, cache_dir=self._cache, revision=self.commit)
        return Path(found) if isinstance(found, str) else None

    def _open_files(self, names: Sequence[str]) -> list[WeightFile]:
        with ThreadPoolExecutor(HEADER_WORKERS) as pool:
            return list(pool.map(lambda name: open_weight_file(self._byte_file(name)), names))

    def _byte_file(self, name: str) -> ByteFile:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        cached = self._cached(name)
        if cached is not None:
            return LocalFile(cached)
        url = hf_hub_url(self.repo, name, revision=self.commit, endpoint=self._endpoint)
        return RemoteFile(
            url, f"{self.location}/{name}", build_hf_headers(library_name="mergery", library_version=__version__)
        )

    def _fetch(self, name: str) -> bytes:
        return self._download(name, _Counter({name: 0}, None)).read_bytes()

    def _download(self, name: str, counter: _Counter) -> Path:
        from huggingface_hub import hf_hub_download

        for _ in range(CLOSED_SESSIONS):
            try:
                path = hf_hub_download(
                    self.repo,
                    name,
                    revision=self.commit,
                    cache_dir=self._cache,
                    endpoint=self._endpoint,
                    library_name="mergery",
                    library_version=__version__,
                    tqdm_class=counter.bar(name),
                )
            except (RuntimeError, AttributeError) as error:
                # The client's threads share a session, and one that loses its connection closes it under the others.
                if not any(words in str(error) for words in CLOSED):
                    raise
                continue
            counter.finish(name)
            return Path(path)
        raise ConnectionError(f"the connection was lost {CLOSED_SESSIONS} times")

    def _remember_revision(self) -> None:
        """Note in the cache, as the hub's client does, which commit the branch or tag stands for."""
        name = next(iter(self._weights.files))
        revision, cached = self.revision or "main", self._cached(name)
        if revision == self.commit or cached is None:
            return
        ref = cached.parents[len(Path(name).parts) + 1] / "refs" / revision
        draft = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
        with contextlib.suppress(OSError):  # a cache that is mounted read-only does without
            ref.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(self.commit)
            draft.replace(ref)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise explain(error, self.repo, self.revision) from None


class _Counter:
    """Bytes that have come so far, summed over files that are downloaded at once."""

    def __init__(self, sizes: dict[str, int], report: Callable[[int, int], None] | None) -> None:
        self._sizes, self._report = sizes, report
        self._done = dict.fromkeys(sizes, 0)
        self._lock = threading.Lock()

    def add(self, name: str, count: int) -> None:
        self._set(name, min(self._sizes[name], self._done[name] + count))

    def finish(self, name: str) -> None:
        self._set(name, self._sizes[name])

    def _set(self, name: str, done: int) -> None:
        with self._lock:
            self._done[name] = done
            if self._report:
                self._report(sum(self._done.values()), sum(self._sizes.values()))

    def bar(self, name: str) -> type[Any]:
        """A progress bar class, as the hub's client wants one, that draws nothing and counts here."""
        from huggingface_hub.utils import tqdm

        counter = self

        class Bar(tqdm):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **{**options, "disable": True})

            def update(self, n: float | None = 1) -> None:
                counter.add(name, int(n or 0))

            def update_transfer(self, n: float) -> None:
                """Bytes on the wire, which with deduplication are fewer than those of the file."""

            def set_transfer_postfix_str(self, *args: Any, **options: Any) -> None:
                """The wire's speed is not shown."""

        return Bar
