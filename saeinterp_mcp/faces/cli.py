"""The command-line face: OPERATIONS as commands, and `serve` and `demo`. The only file here that imports typer."""

import gc
import inspect
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_origin

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from saeinterp_mcp.analysis.text import visible_lines
from saeinterp_mcp.config import LABELS_VARIABLE, STORE_VARIABLE, VERSION, Settings
from saeinterp_mcp.errors import BadInput, BadStore, SaeInterpError
from saeinterp_mcp.faces.answering import answer, shown_error
from saeinterp_mcp.faces.arguments import Entry, commands, plain_types
from saeinterp_mcp.faces.label_files import label_export, label_import, note_export
from saeinterp_mcp.operations.progress import told_to
from saeinterp_mcp.store.served import ServedStores

WRONG_CALL, BAD_STORE = 2, 3
STORE_HELP = f"Store: PATH, NAME=PATH, or a NAME among those in {STORE_VARIABLE} (the default)"
StoreOption = Annotated[str | None, typer.Option("--store", help=STORE_HELP)]
StoresOption = Annotated[list[str] | None, typer.Option("--store", help=f"{STORE_HELP}; may be repeated")]
LABELS_HELP = f"Labels file; default {LABELS_VARIABLE}, or a file beside each store"
POSITIONAL = {"evidence_replay": "evidence", "label_delete": "label_id"}
"""Operations without a feature whose first argument may be given by position too."""
GROUP_HELP = {
    "label": "Labels: save, read, retire, export, import",
    "note": "Notes: hypotheses, predictions, observations, decisions, pitfalls",
    "queue": "Which feature to label next",
    "evidence": "Answers that labels and notes cite",
}
LabelsOption = Annotated[Path | None, typer.Option("--labels", metavar="FILE", help=LABELS_HELP)]
HttpOption = Annotated[
    str | None, typer.Option("--http", metavar="HOST:PORT", help="Streamable HTTP, on this machine only")
]
EvidenceArgument = Annotated[str, typer.Argument(help="Id of an answer, ev-...", show_default=False)]
DemoStoreOption = Annotated[
    Path | None, typer.Option("--store", help="The example store; default the demo-store folder")
]
DemoFeatureOption = Annotated[int | None, typer.Option("--feature", help="Feature to look at")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="One JSON document, as the MCP tool's structuredContent")
]


def make_app() -> typer.Typer:
    """The application: one command for each entry, in groups where a command has two words."""
    app = typer.Typer(
        name="saeinterp",
        help="Ask what the features of a sparse autoencoder mean.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )
    groups: dict[str, typer.Typer] = {}
    for entry in commands():
        home, name = _home(app, groups, entry.command)
        home.command(name, help=entry.description, short_help=entry.title)(_guarded(_command_of(entry)))
    for command, function in SHELL_ONLY:
        home, name = _home(app, groups, command)
        home.command(name)(_guarded(function))
    app.callback()(_common)
    return app


def _home(app: typer.Typer, groups: dict[str, typer.Typer], command: str) -> tuple[typer.Typer, str]:
    """Where a command belongs (its group's application is made on first use), and its name there."""
    *above, name = command.split()
    if not above:
        return app, name
    if above[0] not in groups:
        help_text = GROUP_HELP.get(above[0], above[0])
        groups[above[0]] = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help=help_text)
        app.add_typer(groups[above[0]], name=above[0])
    return groups[above[0]], name


def main() -> None:
    """Run the command line; exit codes 0, 1 (our bug), 2 (a wrong call), 3 (bad data)."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    try:
        code = make_app()(standalone_mode=False)
    except typer.Abort:
        typer.echo("Aborted!", err=True)
        sys.exit(1)
    except Exception as error:
        if not hasattr(error, "show"):
            raise
        said = io.StringIO()
        error.show(said)  # the library's own words about a wrong call, which quote it
        typer.echo(visible_lines(said.getvalue()), err=True, nl=False)
        sys.exit(getattr(error, "exit_code", WRONG_CALL))
    sys.exit(code)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"saeinterp {VERSION}")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", is_eager=True, help="Show the version", callback=_show_version)
]


def _common(version: VersionOption = False) -> None:
    """Ask what the features of a sparse autoencoder mean."""


def _guarded(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with our errors as a message on stderr and an exit code; anything else falls, with its traceback."""

    def run(**arguments: Any) -> None:
        try:
            command(**arguments)
        except SaeInterpError as error:
            typer.echo(f"Error: {shown_error(error)}", err=True)
            raise typer.Exit(BAD_STORE if isinstance(error, BadStore) else WRONG_CALL) from None

    run.__signature__ = inspect.signature(command)  # type: ignore[attr-defined]
    run.__doc__, run.__name__, run.__annotations__ = (
        command.__doc__,
        command.__name__,
        command.__annotations__,
    )
    return run


def _command_of(entry: Entry) -> Callable[..., None]:
    """A function whose signature typer reads: the entry's arguments, `--store`, `--labels`, `--json`."""
    fields = entry.arguments.model_fields
    needed = [POSITIONAL[entry.name]] if entry.name in POSITIONAL else []

    def command(**given: Any) -> None:
        as_json, store = given.pop("json"), given.pop("store")
        picture: Path | None = given.pop("image", None)
        locations = store if isinstance(store, list) else [store] if store else []
        stores, given["store"] = open_stores(locations, given.pop("labels", None))
        if by_position := given.pop("by_position", None):
            given[POSITIONAL[entry.name]] = by_position
        if any(given.get(name) is None for name in needed):
            raise BadInput(
                f"{entry.command} needs {needed[0].upper()}, e.g. `saeinterp {entry.command} {needed[0]}`"
            )
        if "image" in fields:
            given["image"] = picture is not None
        objects = [name for name in given if given[name] is not None and _is_object(fields[name])]
        given |= {name: _content(given[name]) for name in objects}
        who = {"author": Settings.from_environment().author, "author_kind": "human"}
        with _progress_shown():
            found = answer(entry, stores, given, who)
        if picture is not None:
            _write_picture(picture, found.picture)
        _print(found.body, as_json)

    ordered = [name for name in fields if name not in ("feature", "store")]
    parameters = [_parameter(name, fields[name]) for name in (["feature"] if "feature" in fields else [])]
    if needed:
        argument = typer.Argument(
            metavar=needed[0].upper(), help=fields[needed[0]].description, show_default=False
        )
        parameters.append(_keyword("by_position", Annotated[str | None, argument], None))
    parameters += [_parameter(name, fields[name], optional=name in needed) for name in ordered]
    store_type = StoresOption if entry.takes_all_stores else StoreOption
    parameters.append(_keyword("store", store_type, None))
    parameters.append(_keyword("labels", LabelsOption, None))
    parameters.append(_keyword("json", JsonOption, False))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__name__ = entry.name
    return command


def _parameter(name: str, info: FieldInfo, optional: bool = False) -> inspect.Parameter:
    """One argument: `feature` by position, `image` as the file to write, any other `a_b` as --a-b."""
    kinds = plain_types(info)
    kind: Any = kinds[0] if len(kinds) == 1 and not _is_object(info) else str
    default = (None if optional else ...) if info.default is PydanticUndefined else info.default
    if name == "feature":
        number = int if default is ... else int | None
        argument = typer.Argument(help=info.description, show_default=False)
        return _keyword(name, Annotated[number, argument], default)
    option = f"--{name.replace('_', '-')}"
    if name == "image":
        return _keyword(name, Annotated[Path | None, typer.Option(option, help="Write a PNG there")], None)
    if default is None:
        kind = kind | None
    return _keyword(name, Annotated[kind, typer.Option(option, help=info.description)], default)


def _is_object(info: FieldInfo) -> bool:
    """Whether an argument is an object, which the shell takes as JSON."""
    return any(get_origin(kind) is dict for kind in plain_types(info))


def _content(value: str) -> str:
    """JSON that is given in place, or in a file as @FILE."""
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{value[1:]} cannot be read as text: {error}") from error


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    default = inspect.Parameter.empty if default is ... else default
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def open_stores(wanted: list[str], labels: Path | None) -> tuple[ServedStores, str | None]:
    """The stores of a call, and the name of the one it is about where the stores come from the environment."""
    settings = Settings.from_environment()
    known, labels = settings.stores, labels or settings.labels
    if not wanted:
        if not known:
            raise BadInput(f"no store; name one with --store PATH, or set {STORE_VARIABLE}")
        return ServedStores.open(known, labels), None
    named = [w for w in wanted if "=" not in w and not Path(w).expanduser().exists()]
    if known and len(named) == len(wanted) == 1:
        stores = ServedStores.open(known, labels)
        stores.pick(wanted[0])
        return stores, wanted[0]
    return ServedStores.open(wanted, labels), None


@contextmanager
def _progress_shown() -> Iterator[None]:
    """A line that says how far a long question is, where somebody sits at the terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from saeinterp_mcp.faces.terminal import ProgressLine

    with ProgressLine() as line, told_to(line.show):
        yield


def _print(body: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.buffer.write(json.dumps(body, ensure_ascii=False).encode("utf-8") + b"\n")
        return
    from saeinterp_mcp.faces.terminal import console, show

    show(body, console(sys.stdout))


def _write_picture(path: Path, picture: bytes | None) -> None:
    assert picture is not None, "an operation with `image` has a picture"
    try:
        path.write_bytes(picture)
    except OSError as error:
        raise BadInput(f"--image {path} cannot be written: {error.strerror}") from error


def serve(store: StoresOption = None, labels: LabelsOption = None, http: HttpOption = None) -> None:
    """Serve the tools over MCP: stdio, or HTTP with --http."""
    stores, _ = open_stores(store or [], labels)
    gc.disable()  # as in __main__
    from saeinterp_mcp.faces.mcp import run_http, run_stdio

    gc.enable()
    if http is None:
        run_stdio(stores)
        return
    host, _, port = http.rpartition(":")
    if not host or not port.isdecimal():
        raise BadInput(f"--http {http}: expected HOST:PORT, e.g. 127.0.0.1:8000")
    run_http(stores, host.strip("[]"), int(port))


def evidence_show(
    evidence: EvidenceArgument, store: StoresOption = None, labels: LabelsOption = None
) -> None:
    """The whole answer behind an evidence id, as JSON: every row of its tables, asked again."""
    from saeinterp_mcp.operations.evidence_replay import whole_answer

    stores, _ = open_stores(store or [], labels)
    _print(whole_answer(stores, evidence), as_json=True)


def demo(store: DemoStoreOption = None, feature: DemoFeatureOption = None) -> None:
    """Show what an agent sees: a real MCP client asks a real server about one feature."""
    from saeinterp_mcp.demo import DEMO_FEATURE, run_demo

    run_demo(store or Settings.from_environment().demo_store, DEMO_FEATURE if feature is None else feature)


SHELL_ONLY: tuple[tuple[str, Callable[..., None]], ...] = (
    ("label export", label_export),
    ("label import", label_import),
    ("note export", note_export),
    ("evidence show", evidence_show),
    ("serve", serve),
    ("demo", demo),
)
"""Commands that are no operations."""
