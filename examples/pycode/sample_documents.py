"""Make `documents.parquet`: the fixed sample of the corpus that ships with the repository.

    python sample_documents.py --out documents.parquet

The corpus differs on every machine, so what a store is built from and tests compare against is this file. A
row is one window of at most 255 tokens (the context of 256 less the leading end-of-text token); it starts at
a multiple of 255 tokens in its document, so no two overlap.
"""

import argparse
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from corpus import Document, Kind, corpus_hash, standard_library_documents
from tokenizers import Tokenizer

MODEL = Path(__file__).parent / "model"
WINDOW_TOKENS = 255
MIN_TOKENS = 64
"""A shorter rest of a document is no window, unless it is the whole document."""
SEED = 0
WINDOWS: dict[Kind, tuple[int, int]] = {"source": (600, 2), "docs": (120, 3), "c_docstring": (90, 3)}
"""For each kind: windows wanted, and the most from one document."""


@dataclass(frozen=True)
class Window:
    """A stretch of one document."""

    document: Document
    start: int
    token_ids: list[int]


def windows_of(document: Document, tokenizer: Tokenizer) -> list[Window]:
    """The windows of a document that decode to text which encodes to the same tokens.

    Left out are windows that begin or end inside a character of several bytes, or inside what the tokenizer
    would join if it saw the window alone.
    """
    encoding = tokenizer.encode(document.text)
    found: list[Window] = []
    for start in range(0, len(encoding.ids), WINDOW_TOKENS):
        token_ids = encoding.ids[start : start + WINDOW_TOKENS]
        long_enough = len(token_ids) >= MIN_TOKENS or start == 0
        if long_enough and tokenizer.encode(tokenizer.decode(token_ids)).ids == token_ids:
            found.append(Window(document, start, token_ids))
    return found


def choose(windows: dict[str, list[Window]], wanted: int, most: int, draw: random.Random) -> list[Window]:
    """One window of every document, then a second of every document, and so on until there are enough."""
    shuffled = {unit: draw.sample(found, min(most, len(found))) for unit, found in windows.items()}
    chosen: list[Window] = []
    for turn in range(most):
        ready = [found[turn] for found in shuffled.values() if len(found) > turn]
        chosen += draw.sample(ready, min(len(ready), wanted - len(chosen)))
    return chosen


def sample(documents: Iterable[Document], tokenizer: Tokenizer) -> list[Window]:
    """The sample, in the order of the corpus."""
    draw = random.Random(SEED)
    documents = list(documents)
    chosen: list[Window] = []
    for kind, (wanted, most) in WINDOWS.items():
        windows = {d.unit: windows_of(d, tokenizer) for d in documents if d.kind == kind}
        chosen += choose(windows, wanted, most, draw)
    position = {document.unit: index for index, document in enumerate(documents)}
    return sorted(chosen, key=lambda window: (position[window.document.unit], window.start))


def table(windows: list[Window], tokenizer: Tokenizer, corpus: str) -> pa.Table:
    """The columns of the file. `text` is `token_ids` decoded, and encodes to them."""
    columns = {
        "unit": pa.array([w.document.unit for w in windows], pa.string()),
        "module": pa.array([w.document.module for w in windows], pa.string()),
        "kind": pa.array([w.document.kind for w in windows], pa.string()),
        "heldout_by_lm": pa.array(["yes" if w.document.heldout else "no" for w in windows], pa.string()),
        "start": pa.array([w.start for w in windows], pa.int64()),
        "token_ids": pa.array([w.token_ids for w in windows], pa.list_(pa.uint16())),
        "text": pa.array([tokenizer.decode(w.token_ids) for w in windows], pa.string()),
    }
    return pa.table(columns).replace_schema_metadata({"corpus_hash": corpus, "license": "PSF-2.0"})


def main() -> None:
    """Write the file and print what is in it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "documents.parquet")
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    documents = standard_library_documents()
    windows = sample(documents, tokenizer)
    written = table(windows, tokenizer, corpus_hash(documents))
    pq.write_table(written, arguments.out, compression="zstd", compression_level=19)
    for kind in WINDOWS:
        of_kind = [window for window in windows if window.document.kind == kind]
        units = {window.document.unit for window in of_kind}
        n_tokens = sum(len(window.token_ids) for window in of_kind)
        print(f"{kind}: {len(of_kind)} windows of {len(units)} documents, {n_tokens} tokens")


if __name__ == "__main__":
    main()
