"""`saeinterp-pipeline label`: the seed's shell runner as a command, with its three arguments and its variables."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from saeinterp_mcp.errors import BadInput

DTYPES = ("float32", "bfloat16", "float16")


def label(
    features: Annotated[
        str, typer.Argument(help="11,313,251, or a JSON file with feature_indices and scores")
    ],
    sae_path: Annotated[
        str | None, typer.Argument(help="SAELens or sparsify folder, release name, or a finished store")
    ] = None,
    sae_id: Annotated[
        str | None,
        typer.Argument(help="Where it reads, such as blocks.19.hook_resid_post, if it does not say"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(envvar="MODEL_PATH", help="Hugging Face directory or hub name; no default")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(envvar="DATASET_PATH", help="File, folder or hub name; no default")
    ] = None,
    output_dir: Annotated[Path, typer.Option(envvar="OUTPUT_DIR", help="For all that is written")] = Path(
        "results"
    ),
    n_samples: Annotated[
        int, typer.Option(envvar="N_SAMPLES", min=1, help="Rows of the dataset to read")
    ] = 1000,
    max_examples: Annotated[
        int, typer.Option(envvar="MAX_EXAMPLES", min=1, help="Of each feature, in the file")
    ] = 20,
    label_model: Annotated[
        str | None,
        typer.Option(help="Directory, anthropic:MODEL, openai:MODEL@URL, or none; default the model"),
    ] = None,
    store: Annotated[str | None, typer.Option(help="A finished store to run from, without a model")] = None,
    column: Annotated[str, typer.Option(help="Column of the text; tokens holds token ids")] = "text",
    max_examples_for_labeling: Annotated[int, typer.Option(min=1, help="Excerpts the label model sees")] = 10,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda:0, ...; default a GPU if there is one")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16, float16; default as it was saved")
    ] = None,
    context_size: Annotated[int | None, typer.Option(min=2, help="Where the SAE's files do not say")] = None,
    prepend_bos: Annotated[
        bool | None, typer.Option("--prepend-bos/--no-prepend-bos", help="Where the SAE's files do not say")
    ] = None,
    split: Annotated[
        str, typer.Option(help="Examples from explain (held-out ones stay unseen) or all")
    ] = "explain",
    vocabulary: Annotated[Path | None, typer.Option(help="Words a search label may use, one a line")] = None,
    allow_check: Annotated[
        list[str] | None, typer.Option(help="Load check that may fail; repeatable")
    ] = None,
    max_usd: Annotated[float | None, typer.Option(min=0, help="Ceiling on the label model's cost")] = None,
    legacy_names: Annotated[
        bool, typer.Option(help="finance_score in place of score in the examples")
    ] = False,
) -> None:
    """Find where some features fire most and label them: feature_examples.jsonl and feature_labels.json.

    Killed, it goes on where it was.
    """
    from pipeline.run_labeling import run_labeling

    if dtype is not None and dtype not in DTYPES:
        raise BadInput(f"--dtype is {', '.join(DTYPES)}, not {dtype!r}")
    written = run_labeling(
        features,
        model or None,
        sae_path or None,
        dataset or None,
        sae_id or None,
        output_dir=output_dir,
        n_samples=n_samples,
        max_examples_per_feature=max_examples,
        device=device,
        column_name=column,
        label_model_path=label_model,
        max_examples_for_labeling=max_examples_for_labeling,
        store=store,
        legacy_names=legacy_names,
        split=cast(Literal["explain", "all"], split),
        vocabulary=vocabulary,
        context_size=context_size,
        prepend_bos=prepend_bos,
        dtype=cast(Literal["float32", "bfloat16", "float16"] | None, dtype),
        allow_checks=tuple(allow_check or ()),
        max_usd=max_usd,
    )
    for path in written.values():
        typer.echo(path)
