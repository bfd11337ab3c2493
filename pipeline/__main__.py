"""`saeinterp-pipeline`: build, import, attach, compact, export, train-sae, label, verify, status, explain, score, runs,
validate."""

import errno
import json
import sys
import traceback
from pathlib import Path
from typing import Annotated, Literal, NoReturn

import typer

from pipeline.autointerp.command import explain, runs, score
from pipeline.importers.attach_command import attach
from pipeline.labeling.command import label
from pipeline.training.command import train_sae
from pipeline.validation.command import validate
from saeinterp_mcp.errors import BadInput, BadStore, SaeInterpError

DISK_SAYS_NO = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Make, check and look at stores of SAE activations.",
)
IMPORTERS = (
    "bundle", "batch-zarr", "transposed-zarr", "neuron-acts", "npz", "hdf5", "examples", "delphi",
    "activations-jsonl", "neuronpedia", "sae-dashboard",
)  # fmt: skip
EXPORTERS = (
    "batch-zarr", "transposed-zarr", "neuron-acts", "examples", "histograms", "idf", "influences", "bundle",
    "neuronpedia",
)  # fmt: skip
"""Written out here too, so that `--help` needs no import; a test compares them."""


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
    format: Annotated[str, typer.Argument(help=f"Format of the source: {', '.join(IMPORTERS)}")],
    source: Annotated[Path, typer.Argument(help="Where it is")],
    out: Annotated[Path, typer.Option(help="Folder of the store; one made of the same is left alone")],
    metadata: Annotated[
        Path | None, typer.Option(help="Tables with tokens and groups, where the source has none")
    ] = None,
    vocab: Annotated[Path | None, typer.Option(help="{token: id}; without it tokens are their ids")] = None,
    weapon_vocab: Annotated[Path | None, typer.Option(help="{weapon: id}")] = None,
    families: Annotated[
        Path | None, typer.Option(help="YAML list of families; default: by the names of tokens")
    ] = None,
    decoder: Annotated[Path | None, typer.Option(help=".npy, [n_features, d_model]")] = None,
    unembedding: Annotated[Path | None, typer.Option(help=".npy, [d_model, n_outputs]")] = None,
    output_tokens: Annotated[Path | None, typer.Option(help="JSON list, or vocabulary, of outputs")] = None,
    name: Annotated[
        str | None,
        typer.Option(help="Name of the store, unless --append-to; default: of the source"),
    ] = None,
    n_features: Annotated[int | None, typer.Option(min=1, help="Where the source does not say")] = None,
    n_samples: Annotated[int | None, typer.Option(min=1, help="Where the source does not say")] = None,
    split_seed: Annotated[int, typer.Option(min=0, help="Seed of the explain and held-out units")] = 0,
    trust_arrays: Annotated[
        bool, typer.Option(help="Take arrays for whole without the record of a finished conversion")
    ] = False,
    prompts: Annotated[
        Path | None, typer.Option(help="activations-jsonl: prompts.json; default the one beside them")
    ] = None,
    tokenizer: Annotated[
        str | None, typer.Option(help="delphi: folder or cached name; default that of the model it names")
    ] = None,
    hookpoint: Annotated[
        str | None, typer.Option(help="Which, where a source holds several; neuronpedia: MODEL/SOURCE")
    ] = None,
    explainer: Annotated[
        str | None, typer.Option(help="Model that explained, where the source does not say")
    ] = None,
    scorer: Annotated[str | None, typer.Option(help="Model that scored, where it is another one")] = None,
    bad_files: Annotated[
        Literal["skip", "stop"] | None,
        typer.Option(help="Bad files or lines are passed over, or end it; default stop, of delphi skip"),
    ] = None,
    negatives: Annotated[
        str | None, typer.Option(help="drop or abs; without it negative activations are refused")
    ] = None,
    append_to: Annotated[
        Path | None,
        typer.Option(help="A store whose samples come first; OUT holds both, as its next generation"),
    ] = None,
    straight: Annotated[
        bool, typer.Option(help="Leave activations in the source's files and read them when asked, slowly")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the examples drawn; with --append-to it is the store's")
    ] = 0,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes")] = 1,
    max_memory: Annotated[float | None, typer.Option(help="GB to stay under while sorting")] = None,
) -> None:
    """Make a store of somebody's activations, without a model. Killed, it goes on where it was."""
    from pipeline.config import Execution
    from pipeline.importers.run_import import import_source

    if negatives not in (None, "drop", "abs"):
        raise BadInput(f"--negatives is drop or abs, not {negatives!r}")
    import_source(
        format,
        source,
        out,
        negatives=None if negatives is None else "drop" if negatives == "drop" else "abs",
        seed=seed,
        execution=Execution(workers=workers, max_memory_gb=max_memory),
        append_to=append_to,
        straight=straight,
        metadata=metadata,
        vocab=vocab,
        weapon_vocab=weapon_vocab,
        families=families,
        decoder=decoder,
        unembedding=unembedding,
        output_tokens=output_tokens,
        name=name,
        n_features=n_features,
        n_samples=n_samples,
        split_seed=split_seed or None,
        trust_arrays=trust_arrays,
        prompts=prompts,
        tokenizer=tokenizer,
        hookpoint=hookpoint,
        explainer=explainer,
        scorer=scorer,
        bad_files=bad_files,
    )
    typer.echo(f"{out}")


@app.command()
def compact(
    store: Annotated[Path, typer.Argument(help="Folder of a store that was appended to")],
    out: Annotated[Path, typer.Option(help="Folder of the new store, which must not exist")],
    workers: Annotated[int, typer.Option(min=1, help="Worker processes")] = 1,
    max_memory: Annotated[float | None, typer.Option(help="GB to stay under while sorting")] = None,
) -> None:
    """Sort the segments of a store into one. (The ninth append does it by itself.)"""
    from pipeline.config import Execution
    from pipeline.importers.run_compact import compact_store

    compact_store(store, out, Execution(workers=workers, max_memory_gb=max_memory))
    typer.echo(f"{out}")


@app.command()
def export(
    format: Annotated[str, typer.Argument(help=f"Format to write: {', '.join(EXPORTERS)}")],
    store: Annotated[Path, typer.Argument(help="Folder of a store")],
    out: Annotated[Path, typer.Option(help="Folder to write, which must not exist")],
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a batch")] = 500_000,
    zarr_format: Annotated[int, typer.Option(min=2, max=3, help="Version of Zarr")] = 3,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=1, help="Examples of a feature (100; neuronpedia 20), or outputs on either side (30)"
        ),
    ] = None,
    threshold: Annotated[float, typer.Option(min=0, help="Examples are above this")] = 0.1,
    bins: Annotated[int, typer.Option(min=1, help="Bins of a histogram")] = 100,
    model_id: Annotated[
        str | None, typer.Option(help="neuronpedia: its name of the model, gemma-2-2b")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="neuronpedia: its name of the source, 12-gemmascope-res-16k")
    ] = None,
    creator_id: Annotated[
        str | None, typer.Option(help="neuronpedia: the user whom the records belong to")
    ] = None,
    creator_name: Annotated[str | None, typer.Option(help="neuronpedia: whose work it is")] = None,
    release: Annotated[str | None, typer.Option(help="neuronpedia: name of the release")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes")] = 1,
) -> None:
    """Write a store in the storage guide's formats, for Neuronpedia, or back as a bundle."""
    from pipeline.exporters.run_export import ExportOptions, export_store

    named = {"creator_id": creator_id, "creator_name": creator_name}
    options = ExportOptions(
        batch_size=batch_size,
        zarr_format=2 if zarr_format == 2 else 3,
        top_k=top_k,
        threshold=threshold,
        bins=bins,
        model_id=model_id,
        layer=layer,
        release=release,
        workers=workers,
        **{name: given for name, given in named.items() if given is not None},
    )
    written = export_store(format, store, out, options)
    counts = ", ".join(f"{n:,} {what}" for what, n in written.items())
    typer.echo(f"{out}: {counts}")


app.command("attach")(attach)
app.command("train-sae")(train_sae)
app.command("explain")(explain)
app.command("score")(score)
app.command("runs")(runs)
app.command("label")(label)
app.command("validate")(validate)


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
    except OSError as error:
        if error.errno not in DISK_SAYS_NO:
            traceback.print_exc()
            _fail("this is a bug of saeinterp; please report it with the lines above", 1)
        where = f"{error.filename}: " if error.filename else ""
        _fail(
            f"{where}{error.strerror}. Free space, or name another folder with --out; nothing was published, what "
            "is done is kept, and the same command goes on with it.",
            2,
        )
    except Exception:
        traceback.print_exc()
        _fail("this is a bug of saeinterp; please report it with the lines above", 1)


if __name__ == "__main__":
    main()
