"""FORMATS: the files that labels come from and go to; and which one a file is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from saeinterp_mcp.errors import BadInput, UnknownName, nearest
from saeinterp_mcp.labels.exchange import circuit_graph, comma_separated, consolidated, jsonl, neuronpedia
from saeinterp_mcp.labels.exchange.files import document, lines_of, object_in
from saeinterp_mcp.labels.exchange.records import BadLine, Incoming, Options, Source, Target


@dataclass(frozen=True)
class LabelFormat:
    """A kind of file."""

    name: str
    title: str
    read: Callable[[Path, Target, Options], Iterator[Incoming | BadLine]]
    read_source: Callable[[Path], Source]
    write: Callable[[Target, Options], Iterator[bytes]] | None
    """None where labels only come in."""
    file_name: str | None = None
    """Of an export into a folder; `{store}` and `{model}` are filled in."""


FORMATS: tuple[LabelFormat, ...] = (
    LabelFormat(
        "jsonl",
        "our own: labels, notes, held-out tests, for review in git",
        jsonl.read,
        jsonl.read_source,
        jsonl.write,
        "{store}.jsonl",
    ),
    LabelFormat(
        "csv",
        "a table for spreadsheets",
        comma_separated.read,
        comma_separated.read_source,
        comma_separated.write,
        "{store}.csv",
    ),
    LabelFormat(
        "consolidated",
        "the loadout dashboard's consolidated_<model>.json",
        consolidated.read,
        consolidated.read_source,
        consolidated.write,
        "consolidated_{model}.json",
    ),
    LabelFormat(
        "dashboard",
        "the loadout dashboard's feature_labels_<model>.json",
        consolidated.read_dashboard,
        consolidated.read_source,
        None,
    ),
    LabelFormat(
        "neuronpedia",
        "Neuronpedia's explanations, JSONL or .jsonl.gz",
        neuronpedia.read,
        neuronpedia.read_source,
        neuronpedia.write,
        "{store}-explanations.jsonl",
    ),
    LabelFormat(
        "clerp",
        "the texts in a circuit-tracer graph",
        circuit_graph.read,
        circuit_graph.read_source,
        circuit_graph.write,
    ),
)


def format_named(name: str) -> LabelFormat:
    """The format of that name.

    Raises:
        UnknownName: there is none.
    """
    found = next((one for one in FORMATS if one.name == name), None)
    if found is None:
        raise UnknownName(f"there is no format {name!r}; {nearest(name, [one.name for one in FORMATS])}")
    return found


def format_of(path: Path) -> LabelFormat:
    """The format of a file, by its name and what is in it.

    Raises:
        BadInput: it looks like none of them, or is not there.
    """
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    last = suffixes[-1].lower() if suffixes else ""
    name = (
        _name_of_lines(path)
        if last in (".jsonl", ".ndjson")
        else _name_of_document(path)
        if last == ".json"
        else None
    )
    if last == ".csv":
        name = "csv"
    if name is None:
        raise BadInput(
            f"{path} does not look like a label file; say what it is with --format: "
            + ", ".join(f"{one.name} ({one.title})" for one in FORMATS)
        )
    return format_named(name)


def _name_of_lines(path: Path) -> str | None:
    for where, line in lines_of(path):
        try:
            values = {} if isinstance(line, BadLine) else object_in(where, line)
        except BadLine:
            return None
        if values.get("format") == jsonl.FORMAT:
            return "jsonl"
        return "neuronpedia" if {"modelId", "index", "description"} <= values.keys() else None
    return None


def _name_of_document(path: Path) -> str | None:
    content = document(path)
    if not isinstance(content, dict):
        return None
    if isinstance(content.get("nodes"), list):
        return "clerp"
    entry = next(iter(content.values()), None)
    if not isinstance(entry, dict):
        return None
    if {"research_label", "dashboard_name", "display_name"} & entry.keys():
        return "consolidated"
    return "dashboard" if "name" in entry else None
