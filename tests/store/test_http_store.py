"""A store behind a web server: the same suite, and what a question costs in requests and bytes."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from saeinterp_mcp.errors import BadInput, BadStore
from saeinterp_mcp.operations.test_rule import test_rule as ask_rule
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.memory_store import World
from saeinterp_mcp.store.open import open_store
from saeinterp_mcp.store.served import ServedStores
from tests.store.contract import StoreContract
from tests.worlds import import_world, texts


class Files(BaseHTTPRequestHandler):
    """Files below `folder`, whole or by one range."""

    protocol_version = "HTTP/1.1"
    folder: Path
    asked: list[tuple[str, int]]
    ranges = True

    def do_GET(self) -> None:
        path = self.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content, status = path.read_bytes(), 200
        span = self.headers.get("Range")
        if span is not None and self.ranges:
            first, last = span.removeprefix("bytes=").split("-")
            content, status = content[int(first) : int(last) + 1], 206
        self.asked.append((self.path, len(content)))
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[type[Files]]:
    class Handler(Files):
        folder = tmp_path
        asked: list[tuple[str, int]] = []

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        Handler.url = f"http://127.0.0.1:{running.server_address[1]}"  # type: ignore[attr-defined]
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield Handler
        running.shutdown()


class TestHttpStore(StoreContract):
    @pytest.fixture(autouse=True)
    def _serve(self, server: type[Files]) -> None:
        self.url = server.url  # type: ignore[attr-defined]

    def store(self, world: World, folder: Path) -> Store:
        import_world(world, folder)
        return open_store(f"{self.url}/store")


def test_a_feature_costs_two_requests_and_no_byte_too_many(server: type[Files], tmp_path: Path) -> None:
    local = open_store(import_world(texts(), tmp_path))
    store = open_store(f"{server.url}/store")  # type: ignore[attr-defined]
    store.activations(0)
    server.asked.clear()
    n = len(store.activations(1).rows)
    assert n == len(local.activations(1).rows) > 0
    assert sorted(server.asked) == [
        ("/store/features/rows/c/0", 4 * n),
        ("/store/features/values/c/0", 4 * n),
    ]


def test_stores_behind_addresses_are_served_beside_others(server: type[Files], tmp_path: Path) -> None:
    path = import_world(texts(), tmp_path)
    url = f"{server.url}/store"  # type: ignore[attr-defined]
    served = ServedStores.open([f"here={path}", url])
    assert sorted(served.by_name) == ["here", "texts"]
    assert served.pick("here").fingerprint == served.pick("texts").fingerprint


def test_a_server_without_ranges_or_store_is_refused(server: type[Files], tmp_path: Path) -> None:
    import_world(texts(), tmp_path)
    with pytest.raises(BadStore, match=r"nothing/manifest\.json: expected status 200; found status 404"):
        open_store(f"{server.url}/nothing")  # type: ignore[attr-defined]
    server.ranges = False
    store = open_store(f"{server.url}/store")  # type: ignore[attr-defined]
    with pytest.raises(BadStore, match=r"expected status 206 with .* bytes; found status 200 with"):
        store.activations(0)


def test_nobody_there_is_said() -> None:
    with pytest.raises(BadStore, match=r"expected an answer; found ConnectionRefusedError"):
        open_store("http://127.0.0.1:9/store")


def test_an_address_with_a_query_is_refused() -> None:
    with pytest.raises(BadInput, match="is not the address of a store's folder"):
        open_store("http://127.0.0.1:9/store?x=1")


def test_a_store_behind_an_address_records_held_out_tests_only_where_labels_says(
    server: type[Files], tmp_path: Path
) -> None:
    import_world(texts(), tmp_path)
    url = f"{server.url}/store"  # type: ignore[attr-defined]
    with pytest.raises(
        BadInput, match=r"has no place to record held-out tests; name a file with --labels FILE"
    ):
        ask_rule(open_store(url), 0, "token:def")
    assert ask_rule(open_store(url), 0, "token:def", split="explain").n > 0
    recording = open_store(url, labels=tmp_path / "mine.sqlite")
    assert ask_rule(recording, 0, "token:def").n_tests_on_heldout == 1
