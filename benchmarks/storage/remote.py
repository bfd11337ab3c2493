"""Target 16: one feature from a web server that answers 30 ms late."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from benchmarks.storage.bench import Bench
from benchmarks.storage.clock import warm
from benchmarks.storage.findings import Finding
from saeinterp_mcp.store.open import open_store

DELAY_SECONDS = 0.03
BYTES_PER_POSTING = 8


class _Late(BaseHTTPRequestHandler):
    """Ranges of the files below `folder`, after the delay; counts requests and bytes."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder: Path
    sent: list[int]

    def do_GET(self) -> None:
        path, span = self.folder / self.path.lstrip("/"), self.headers.get("Range")
        with path.open("rb") as file:
            if span is None:
                content = file.read()
            else:
                first, last = (int(n) for n in span.removeprefix("bytes=").split("-"))
                file.seek(first)
                content = file.read(last + 1 - first)
        time.sleep(DELAY_SECONDS)
        self.sent.append(len(content))
        self.send_response(200 if span is None else 206)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def late_server(folder: Path) -> Iterator[tuple[str, list[int]]]:
    """The address of a server of a folder, and the bytes of each answer so far."""
    counted: list[int] = []

    class Handler(_Late):
        sent = counted

    Handler.folder = folder
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", counted
        server.shutdown()


def target_16(bench: Bench) -> list[Finding]:
    """One feature within 1.5 round trips, two requests a shard touched, 1.05 times the bytes."""
    found = []
    with late_server(bench.store_folder) as (url, sent):
        store = open_store(url)
        for size, feature in bench.chosen.by_size.items():
            store.activations(feature)
            sent.clear()
            n = len(store.activations(feature).rows)
            requests, fetched = len(sent), sum(sent)
            ms = warm({"remote": lambda f=feature: store.activations(f)})["remote"]  # type: ignore[misc]
            how = (
                f"{n:,} activations over loopback HTTP, {1000 * DELAY_SECONDS:.0f} ms a request: {ms:.1f} ms, "
                f"{requests} requests, {fetched / max(1, BYTES_PER_POSTING * n):.3f} times the bytes"
            )
            found.append(
                Finding(
                    target=16,
                    world=bench.name,
                    case=f"remote, {size}",
                    measured=ms / (1000 * DELAY_SECONDS),
                    limit=1.5,
                    unit="RTT",
                    how=how,
                )
            )
    return found
