"""Choose the text the language model is trained on, and write it as token arrays.

    python training_text.py --out WORK [--also PYTHON_DIR ...]

The base is the running Python's own corpus without its held-out documents. Further text comes from test
suites and from other installed Pythons. Nothing held out may come back in that way, so a document is dropped
when it has the path of a held-out one, in whatever version, or shares text with one.
"""

import argparse
import ast
import json
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from corpus import NOT_SOURCE, Document, corpus_hash, source_documents, standard_library_documents
from overlap import ContainmentIndex, LineIndex, longer_lines
from tokenizers import Tokenizer

MODEL = Path(__file__).parent / "model"
MAX_HELDOUT_SHARE = 0.10
"""Dropped if more than this part of its longer lines, or of a held-out document's, is shared."""
MIN_SHARED_LINES = 5
"""Shared lines that make a held-out document recognisable inside a longer one."""
MIN_NEW_SHARE = 0.30
"""A document from elsewhere is kept if at least this part of its longer lines is new."""
MAX_MEAN_LINE = 120
"""Files with longer lines than this on average are tables of data."""


def further_documents(stdlib: Path, version: str) -> Iterator[Document]:
    """Everything else an installation has: sources (tests among them) and its help topics."""
    yield from source_documents(stdlib, frozenset(NOT_SOURCE), prefix=f"{version}/")
    for name, text in read_topics(stdlib / "pydoc_data" / "topics.py").items():
        yield Document(f"{version}-topics/{name}", "docs", text.strip() + "\n")


def read_topics(path: Path) -> dict[str, str]:
    """The one dictionary in an installation's `topics.py`, read without running it."""
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, ast.Assign):
            topics: dict[str, str] = ast.literal_eval(statement.value)
            return topics
    raise ValueError(f"{path} assigns nothing; expected `topics = {{...}}`")


class TrainingText:
    """Takes documents one by one, keeps what is new and not held out, and counts what it drops by reason."""

    def __init__(self, base: list[Document]) -> None:
        heldout = [document for document in base if document.heldout]
        self._heldout_paths = {document.unit.split("/", 1)[1] for document in heldout}
        self._heldout_lines = LineIndex(document.text for document in heldout)
        self._heldout_parts = ContainmentIndex(document.text for document in heldout)
        self._seen = LineIndex()
        self.kept: dict[str, list[Document]] = {"base": [], "further": []}
        self.dropped: Counter[str] = Counter()
        for document in base:
            if not document.heldout:
                self._take(document, "base")

    def offer(self, document: Document) -> None:
        """Keep a document from elsewhere if enough of it is new."""
        if document.unit.split("/", 1)[1] in self._heldout_paths:
            self.dropped["further: path of a held-out document"] += 1
        elif len(document.text) > MAX_MEAN_LINE * document.text.count("\n"):
            self.dropped["further: a table of data"] += 1
        elif not longer_lines(document.text) or self._seen.seen_share(document.text) > 1 - MIN_NEW_SHARE:
            self.dropped["further: little new"] += 1
        else:
            self._take(document, "further")

    def _take(self, document: Document, part: str) -> None:
        if self._shares_heldout_text(document.text):
            self.dropped[f"{part}: shares text with a held-out document"] += 1
            return
        self._seen.add(document.text)
        self.kept[part].append(document)

    def _shares_heldout_text(self, text: str) -> bool:
        """Whether too much of `text` is held out, or too much of a held-out document is in it."""
        inside = self._heldout_parts.largest_share(text, MIN_SHARED_LINES)
        return max(inside, self._heldout_lines.seen_share(text)) > MAX_HELDOUT_SHARE


def stdlib_folder(installation: Path) -> Path:
    """`lib/python3.N` inside an installation."""
    found = sorted(installation.glob("lib/python3.*/os.py"))
    if not found:
        raise FileNotFoundError(f"{installation} has no lib/python3.N/os.py; give the folder above lib")
    return found[0].parent


def encode(documents: list[Document], tokenizer: Tokenizer) -> np.ndarray:
    """One array of token ids, u16; id 0 (end of text) before each document."""
    encodings = tokenizer.encode_batch([document.text for document in documents])
    return np.concatenate([np.array([0, *encoding.ids], dtype=np.uint16) for encoding in encodings])


def main() -> None:
    """Write `base.npy`, `further.npy` and `training_text.json` under `--out`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument(
        "--also", type=Path, action="append", default=[], help="another Python's folder; repeatable"
    )
    arguments = parser.parse_args()
    base = standard_library_documents()
    text = TrainingText(base)
    installations = {"this": Path(sysconfig.get_paths()["stdlib"])}
    installations |= {stdlib_folder(also).name: stdlib_folder(also) for also in arguments.also}
    for version, stdlib in installations.items():
        for document in further_documents(stdlib, version):
            text.offer(document)
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    arguments.out.mkdir(parents=True, exist_ok=True)
    parts: dict[str, dict[str, object]] = {}
    for part, documents in text.kept.items():
        tokens = encode(documents, tokenizer)
        np.save(arguments.out / f"{part}.npy", tokens, allow_pickle=False)
        sources = Counter(document.unit.split("/")[0] for document in documents)
        n_bytes = sum(len(document.text.encode()) for document in documents)
        parts[part] = {
            "documents": len(documents),
            "bytes": n_bytes,
            "tokens": len(tokens),
            "sources": sources,
        }
    summary = {"corpus_hash": corpus_hash(base), **parts, "dropped": dict(sorted(text.dropped.items()))}
    (arguments.out / "training_text.json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
