"""The documents of one Python installation, and which of them the language model never sees.

Three kinds: sources of the standard library, the help topics of `pydoc` (the language reference in prose),
and the docstrings of modules written in C. They differ a little on every machine; `corpus_hash` says whether
two agree.
"""

import hashlib
import importlib
import inspect
import os
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Literal

Kind = Literal["source", "docs", "c_docstring"]

HELDOUT_PERCENT = 5
NOT_SOURCE = ("site-packages", "dist-packages", "__pycache__", "encodings", "pydoc_data")
"""Folders of installed packages, of compiled files, and of tables."""
SKIPPED_FOLDERS = frozenset(
    ("test", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip", "__phello__", "msilib", *NOT_SOURCE)
)
SKIPPED_FILES = ("_sysconfigdata", "this.py", "antigravity")
# Importing these opens a browser, prints a poem or needs a display.
UNIMPORTED_MODULES = frozenset({"antigravity", "this", "idlelib", "test", "turtle", "tkinter"})


@dataclass(frozen=True)
class Document:
    """One text of the corpus."""

    unit: str
    """`stdlib/<path>`, `topics/<name>` or `cdoc/<module>`; the hash of this decides the split."""
    kind: Kind
    text: str

    @property
    def heldout(self) -> bool:
        """Whether the language model's held-out set contains it: 5 % of the documents, by hash of `unit`."""
        return int(hashlib.sha256(self.unit.encode()).hexdigest(), 16) % 100 < HELDOUT_PERCENT

    @property
    def module(self) -> str:
        """The top-level module or package; `(docs)` for a help topic."""
        if self.kind == "docs":
            return "(docs)"
        return self.unit.split("/")[1].removesuffix(".py")


def standard_library_documents() -> list[Document]:
    """Every document of the running Python, in a fixed order, each text once."""
    documents: dict[str, Document] = {}
    for source in (source_documents(Path(sysconfig.get_paths()["stdlib"])), topic_documents(), c_documents()):
        for document in source:
            documents.setdefault(document.text, document)
    return list(documents.values())


def corpus_hash(documents: list[Document]) -> str:
    """Sixteen hex digits that name these texts in this order."""
    parts = (hashlib.sha256(document.text.encode()).hexdigest() for document in documents)
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]


def source_documents(
    root: Path, skipped_folders: frozenset[str] = SKIPPED_FOLDERS, prefix: str = "stdlib/"
) -> Iterator[Document]:
    """The `.py` files under `root` that are UTF-8 and longer than 40 characters."""
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = sorted(
            n for n in subfolders if n not in skipped_folders and not n.startswith("config-")
        )
        for name in sorted(files):
            if not name.endswith(".py") or name.startswith(SKIPPED_FILES):
                continue
            path = Path(folder, name)
            try:
                text = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:  # some tests of the decoder are other encodings on purpose
                continue
            if len(text) > 40:
                yield Document(prefix + path.relative_to(root).as_posix(), "source", text)


def topic_documents() -> Iterator[Document]:
    """The help topics of the running Python."""
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield Document(f"topics/{name}", "docs", topics[name].strip() + "\n")


def c_documents() -> Iterator[Document]:
    """Docstrings and signatures of the public modules that have no Python source."""
    for name in sorted(sys.stdlib_module_names):
        if name in UNIMPORTED_MODULES or (name.startswith("_") and name != "_thread"):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                module = importlib.import_module(name)
        except ImportError:  # of another platform, or built without a library it needs
            continue
        if not (getattr(module, "__file__", None) or "").endswith(".py"):
            entries = list(docstring_entries(name, module))
            if entries:
                yield Document(f"cdoc/{name}", "c_docstring", "\n".join(entries))


def docstring_entries(name: str, module: ModuleType) -> Iterator[str]:
    """One entry for the module, each of its public names, and each method of its classes."""
    objects: list[tuple[str, object]] = [(name, module)]
    for member, value in sorted(vars(module).items()):
        if not member.startswith("_"):
            objects.append((f"{name}.{member}", value))
            if inspect.isclass(value):
                methods = sorted(
                    (n, m) for n, m in vars(value).items() if callable(m) and not n.startswith("__")
                )
                objects.extend((f"{name}.{member}.{method}", function) for method, function in methods)
    for qualified, value in objects:
        docstring = inspect.getdoc(value)
        if docstring:
            indented = docstring.replace("\n", "\n    ")
            yield f"{qualified}{signature_text(value)}\n    {indented}\n"


def signature_text(value: object) -> str:
    """`(a, b=1)` for what can be called, `(...)` where C code does not tell, nothing for the rest."""
    if not callable(value):
        return ""
    try:
        return str(inspect.signature(value))
    except (ValueError, TypeError):
        return "(...)"
