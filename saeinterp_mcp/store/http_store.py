"""A backend that reads a published store from a web server, by ranges: a feature costs one round trip.

Offsets into uncompressed arrays are arithmetic, so nothing is fetched to find out where a feature lies; its rows and
its values are asked for at the same time. Columns and tables are fetched once and kept. Any server will do that
understands `Range` (object stores do).
"""

import http.client
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.store.base import AnyArray, Ints, Postings
from saeinterp_mcp.store.manifest import MANIFEST, parse_manifest
from saeinterp_mcp.store.zarr_store import ZarrBackend

TIMEOUT_SECONDS = 60
CONNECTIONS = 8
ADVICE = "Check the address, and that the server gives out byte ranges of the store's files."


class HttpBackend(ZarrBackend):
    """A store under a URL, opened by its manifest."""

    def __init__(self, url: str) -> None:
        self._files = _Server(url.rstrip("/"))
        manifest = parse_manifest(self._files.read(MANIFEST, None), f"{url}/{MANIFEST}")
        if manifest.straight is not None:
            raise BadInput(
                f"{url} is served straight from files of another machine; publish an imported store"
            )
        # never looked for on disk: paths are names below the URL
        super().__init__(Path(), draft=manifest)
        self._pool = ThreadPoolExecutor(CONNECTIONS)

    def has(self, name: str) -> bool:
        """Whether the store holds the array."""
        return f"{name}/zarr.json" in self._manifest.files

    def postings(self, feature: int) -> Postings:
        """Where a feature fires; rows and values are fetched together."""
        if len(self._manifest.segments) > 1:
            return super().postings(feature)
        start, stop = (int(i) for i in self.column("features/indptr")[feature : feature + 2])
        values = self._pool.submit(self.span, "features/values", start, stop)
        rows = self.span("features/rows", start, stop).astype(np.int64)
        return Postings(rows, values.result())

    def prefetch(self, features: Sequence[int]) -> None:
        """Nothing to announce to a server."""

    def gather(self, name: str, index: Ints) -> AnyArray:
        """Entries of an array: fetched from the first to the last of them."""
        if not len(index):
            return np.zeros(0, self._array(name).dtype)
        first = int(index.min())
        return np.asarray(self.span(name, first, int(index.max()) + 1)[index - first])

    def _folder_of(self, file: str) -> Path | None:
        return Path() if file in self._manifest.files else None

    def _read_into(self, file: Path, offset: int, view: memoryview) -> None:
        view[:] = self._files.read(file.as_posix(), (offset, len(view)))

    def _read_file(self, file: Path) -> bytes:
        return self._files.read(file.as_posix(), None)

    def _size_of(self, file: Path) -> int:
        return self._manifest.files[file.as_posix()].bytes

    def _map(self, file: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> AnyArray:
        n = int(np.prod(shape, dtype=np.int64))
        content = self._files.read(file.as_posix(), (0, n * dtype.itemsize))
        return np.frombuffer(content, dtype).reshape(shape)


class _Server:
    """Whole files and ranges under a URL; a connection for each thread, kept open."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.hostname is None or parts.query or parts.fragment:
            raise BadInput(f"{url!r} is not the address of a store's folder: http://HOST/FOLDER")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._url, self._path = url, parts.path
        self._new = partial(kind, parts.hostname, parts.port, timeout=TIMEOUT_SECONDS)
        self._own = threading.local()
        self._all: list[http.client.HTTPConnection] = []

    def __del__(self) -> None:
        for connection in self.__dict__.get("_all", []):
            connection.close()

    def read(self, name: str, span: tuple[int, int] | None) -> bytes:
        """A file, or `span` = (offset, bytes) of it.

        Raises:
            BadStore: the server does not answer, or not with these bytes.
        """
        if span is not None and not span[1]:
            return b""
        where = f"{self._url}/{name}"
        headers = {} if span is None else {"Range": f"bytes={span[0]}-{span[0] + span[1] - 1}"}
        try:
            status, content = self._ask(f"{self._path}/{quote(name)}", headers)
        except (OSError, http.client.HTTPException) as error:
            raise BadStore(where, "an answer", f"{type(error).__name__}: {error}", ADVICE) from error
        if span is None and status != 200:
            raise BadStore(where, "status 200", f"status {status}", ADVICE)
        if span is not None and (status != 206 or len(content) != span[1]):
            raise BadStore(
                where,
                f"status 206 with {span[1]} bytes",
                f"status {status} with {len(content)} bytes",
                ADVICE,
            )
        return content

    def _ask(self, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        for last in (False, True):
            connection: http.client.HTTPConnection | None = getattr(self._own, "connection", None)
            fresh = connection is None
            if connection is None:
                connection = self._own.connection = self._new()
                self._all.append(connection)
            try:
                connection.request("GET", path, headers=headers)
                answer = connection.getresponse()
                return answer.status, answer.read()
            except (OSError, http.client.HTTPException):
                # a server may close a connection that was idle: ask once more on a new one
                connection.close()
                self._all.remove(connection)
                self._own.connection = None
                if fresh or last:
                    raise
        raise AssertionError("the second round returns or raises")
