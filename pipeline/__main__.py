"""The command `saeinterp-pipeline`: build, import, verify, status."""

import json
import sys
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from saeinterp_mcp.errors import BadInput, BadStore, SaeInterpError, nearest

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Make, check and look at stores of SAE activations.",
)
IMPORTERS = ("bundle",)


@app.command()
def build(
    config: Annotated[Path, typer.Argument(help="The run's YAML file (docs/build.md)")],
    only: Annotated[str | None, typer.Option(help="Run this stage alone")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Worker processes")] = None,
    max_memory: Annotated[float | None, typer.Option(help="GB a stage with a choice stays under")] = None,
) -> None:
    """Build a store from a model, an SAE and a dataset. Skips what is done; killed, it goes on where it was."""
    from pipeline.build import build_store

    built = build_store(config, only=only, workers=workers, max_memory_gb=max_memory)
    if built is not None:
        typer.echo(f"{built}")


@app.command("import")
def import_(
    format: Annotated[str, typer.Argument(help="Format of the source: bundle")],
    source: Annotated[Path, typer.Argument(help="Where it is")],
    out: Annotated[Path, typer.Option(help="Folder of the store, which must not exist")],
    negatives: Annotated[
        str | None, typer.Option(help="drop or abs; without it negative activations are refused")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the examples drawn")] = 0,
    max_memory: Annotated[float | None, typer.Option(help="GB to stay under while sorting")] = None,
) -> None:
    """Make a store of somebody's activations, without a model."""
    from pipeline.config import Execution
    from pipeline.importers.run_import import import_bundle

    if format not in IMPORTERS:
        raise BadInput(f"no importer for {format!r}; {nearest(format, IMPORTERS)}")
    if negatives not in (None, "drop", "abs"):
        raise BadInput(f"--negatives is drop or abs, not {negatives!r}")
    chosen = None if negatives is None else ("drop" if negatives == "drop" else "abs")
    import_bundle(source, out, chosen, seed, Execution(max_memory_gb=max_memory))  # type: ignore[arg-type]
    typer.echo(f"{out}")


@app.command()
def verify(store: Annotated[Path, typer.Argument(help="Folder of a store")]) -> None:
    """Recompute every hash of a store, and check that its arrays agree with one another."""
    from pipeline.progress import default_reporter
    from pipeline.verify import verify_store

    with default_reporter().working("verify") as advance:
        checked = verify_store(store, advance)
    for line in checked:
        typer.echo(line)
    typer.echo("the store is whole")


@app.command()
def status(store: Annotated[Path, typer.Argument(help="Folder of a store")]) -> None:
    """Print what a store holds and what made it, as JSON."""
    from saeinterp_mcp.store.manifest import read_manifest

    manifest = read_manifest(store)
    content = manifest.model_dump(mode="json", exclude={"files"})
    content["fingerprint"] = manifest.fingerprint()
    content["bytes"] = sum(entry.bytes for entry in manifest.files.values())
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def _fail(message: str, code: int) -> NoReturn:
    print(f"Error: {message}", file=sys.stderr)
    raise SystemExit(code)


def main() -> None:
    """Run the command; exit codes as in docs: 0 done, 2 a wrong call, 3 damaged or foreign data, 1 our bug."""
    try:
        app()
    except BadStore as error:
        _fail(str(error), 3)
    except SaeInterpError as error:
        _fail(str(error), 2)
    except Exception:
        traceback.print_exc()
        _fail("this is a bug of saeinterp; please report it with the lines above", 1)


if __name__ == "__main__":
    main()
