"""The options of `saeinterp-pipeline train-sae`; those of the storage guide's first step have its names."""

from pathlib import Path
from typing import Annotated, Any

import typer

from saeinterp_mcp.errors import BadInput

TEXT, SETS, SAE, RUN = "On text", "On sets (a model of your own)", "The SAE", "How to run"


def _option(help: str, panel: str, **more: Any) -> Any:
    return typer.Option(help=help, rich_help_panel=panel, **more)


def train_sae(
    config: Annotated[
        Path | None,
        typer.Argument(help="A run's YAML file with sae.train (docs/train-sae.md); options go before it"),
    ] = None,
    save_dir: Annotated[Path | None, _option("Folder of the SAE; default the config's sae.path", RUN)] = None,
    hook_target: Annotated[
        str | None, _option("Where the SAE reads: blocks.2.hook_resid_post; of sets masked_mean", SAE)
    ] = None,
    model: Annotated[str | None, _option("Hugging Face directory, or hub name", TEXT)] = None,
    revision: Annotated[str | None, _option("Commit of the hub name", TEXT)] = None,
    dataset: Annotated[Path | None, _option("Documents: .parquet, .jsonl, .csv", TEXT)] = None,
    text_column: Annotated[str | None, _option("Column with the text; default text", TEXT)] = None,
    token_ids_column: Annotated[
        str | None, _option("Column with token ids, in place of the text", TEXT)
    ] = None,
    unit_column: Annotated[
        str | None, _option("Column that says which rows belong together; default equal content", TEXT)
    ] = None,
    context_size: Annotated[
        int | None, _option("Longest sample in tokens, BOS included; default 128", TEXT, min=2)
    ] = None,
    prepend_bos: Annotated[
        bool | None, _option("Whether samples begin with BOS; default if the tokenizer has one", TEXT)
    ] = None,
    max_vectors_gb: Annotated[
        float, _option("Size that the file of captured vectors may have", TEXT, min=0.001)
    ] = 8.0,
    adapter: Annotated[Path | None, _option("Python file that runs the model", SETS)] = None,
    model_checkpoint: Annotated[Path | None, _option("Its weights (model.pth)", SETS)] = None,
    data_csv: Annotated[Path | None, _option("The sets (tokenized_data.csv)", SETS)] = None,
    vocab_path: Annotated[Path | None, _option("Token to id (vocab.json)", SETS)] = None,
    weapon_vocab_path: Annotated[Path | None, _option("Weapon to id (weapon_vocab.json)", SETS)] = None,
    views: Annotated[
        int | None, _option("Partial views drawn of each set beside itself; default 5", SETS, min=0)
    ] = None,
    architecture: Annotated[
        str | None, _option("standard, topk, batchtopk (default), jumprelu, matryoshka", SAE)
    ] = None,
    expansion_factor: Annotated[
        int | None, _option("Features for each dimension of the input; default 8", SAE, min=1)
    ] = None,
    k: Annotated[int | None, _option("topk and its kin: features that fire; default 32", SAE, min=1)] = None,
    l1_coeff: Annotated[
        float | None, _option("Sparsity penalty of standard, which it chooses", SAE, min=0)
    ] = None,
    l0_coeff: Annotated[
        float | None, _option("Sparsity penalty of jumprelu, which it chooses", SAE, min=0)
    ] = None,
    matryoshka_widths: Annotated[
        str | None, _option("matryoshka: nested numbers of features, such as 64,256", SAE)
    ] = None,
    epochs: Annotated[float | None, _option("Passes over the vectors", SAE)] = None,
    tokens: Annotated[
        int | None, _option("Vectors seen, in place of --epochs; default 2,000,000", SAE, min=1)
    ] = None,
    sae_batch_size: Annotated[int | None, _option("Vectors of a step; default 4096", SAE, min=1)] = None,
    lr: Annotated[float | None, _option("Learning rate; default 0.001", SAE)] = None,
    lr_warm_up_steps: Annotated[
        int | None, _option("Default a twentieth of all, at most 1,000", SAE, min=0)
    ] = None,
    lr_decay_steps: Annotated[int | None, _option("Default the last fifth", SAE, min=0)] = None,
    sparsity_warm_up_steps: Annotated[
        int | None, _option("Of --l1-coeff or --l0-coeff; default a tenth", SAE, min=0)
    ] = None,
    dead_feature_window: Annotated[
        int | None, _option("Silent steps that make a feature dead; default a tenth, 50 to 1,000", SAE, min=1)
    ] = None,
    dead_feature_loss: Annotated[
        float | None, _option("Weight of what revives dead features; 0 for nothing", SAE, min=0)
    ] = None,
    normalize_activations: Annotated[
        str | None, _option("expected_average_only_in (default) or none", SAE)
    ] = None,
    decoder_bias: Annotated[str | None, _option("Starts from: mean (default) or zero", SAE)] = None,
    held_out: Annotated[
        float | None, _option("Share of units kept out of the training, for the report; default 0.05", SAE)
    ] = None,
    seed: Annotated[
        int | None, _option("Of weights, order and held-out units; default 0", SAE, min=0)
    ] = None,
    checkpoint_seconds: Annotated[
        float | None, _option("How much work a kill may cost; default 60", RUN)
    ] = None,
    device: Annotated[str | None, _option("auto, cpu, cuda, cuda:1, mps; default auto", RUN)] = None,
    threads: Annotated[int | None, _option("Torch threads; default 1", RUN, min=1)] = None,
) -> None:
    """Train an SAE on a hook of a language model, or of a model of sets. Killed, it goes on where it was."""
    given = dict(locals())
    from pipeline.training.config import TrainSaeConfig
    from pipeline.training.options import Sources, training_run
    from pipeline.training.report import table
    from pipeline.training.run import train_sae as train

    settings = {name: value for name, value in given.items() if name in TrainSaeConfig.model_fields}
    settings |= {"batch_size": sae_batch_size, "matryoshka_widths": widths(matryoshka_widths)}
    sources = Sources(**{name: value for name, value in given.items() if name in Sources.model_fields})
    run, folder = training_run(config, sources, settings, save_dir)
    changed = {
        name: value for name, value in {"device": device, "threads": threads}.items() if value is not None
    }
    report = train(run, folder, run.execution.model_copy(update=changed), max_gb=max_vectors_gb)
    typer.echo(table(report))
    typer.echo(f"{folder}")


def widths(text: str | None) -> tuple[int, ...] | None:
    """`64,256` as numbers."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise BadInput(
            f"--matryoshka-widths must be numbers with commas between, such as 64,256, not {text!r}"
        )
    return tuple(int(part) for part in parts)
