"""What the tests of imports from JSON share: small sources written by hand, and what a store holds of them."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.importers.run_import import import_source
from saeinterp_mcp.store.base import Store
from saeinterp_mcp.store.open import open_store
from tests.worlds import Quiet

FIXTURES = Path(__file__).parents[1] / "fixtures"
Held = dict[tuple[int, int], dict[int, float]]
"""(feature, sample) to position to activation."""


def write_lines(path: Path, records: Sequence[Any]) -> Path:
    """JSON lines, packed where the name ends in .gz; a string is a line as it is."""
    text = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records)
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode("utf-8")
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def load(format: str, source: Path, out: Path, **options: Any) -> Store:
    import_source(format, source, out, progress=Quiet(), **options)
    return open_store(out)


def notes(store: Store) -> list[str]:
    return [str(check["note"]) for check in store.manifest.checks if check["name"] == "import"]


def texts(store: Store) -> list[list[str]]:
    """Tokens of the samples, in the order of the source."""
    found: list[list[str]] = [[]] * store.manifest.n_samples
    for sample, source in enumerate(store.source[:].tolist()):
        found[source] = [store.tokens[i] for i in store.tokens_of_sample(sample).tolist()]
    return found


def held(store: Store) -> Held:
    """All activations."""
    found: Held = {}
    for feature in range(store.manifest.n_features):
        rows, values = store.activations(feature)
        for row, value in zip(rows.tolist(), values.tolist(), strict=True):
            sample = int(store.source[int(store.row_sample[row])])
            found.setdefault((feature, sample), {})[int(store.row_position[row])] = value
    return found
