"""The command `saeinterp-pipeline validate`."""

from pathlib import Path
from typing import Annotated

import typer

Config = Annotated[Path, typer.Argument(help="The run's YAML file (docs/validation.md)")]
Only = Annotated[str | None, typer.Option(help="Run this stage alone; what it reads must be done")]
Workers = Annotated[int | None, typer.Option(min=1, help="Worker processes")]


def validate(config: Config, only: Only = None, workers: Workers = None) -> None:
    """Set explanations against activations: tables and queries beside a store. Does only what changed."""
    from saeinterp_mcp.clients.worker_process import missing
    from saeinterp_mcp.errors import BadInput

    if (reason := missing("umap", "sklearn", "threadpoolctl", "safetensors")) is not None:
        raise BadInput(f"validate makes maps and clusters too: {reason}")
    from pipeline.validation.config import ValidationRun
    from pipeline.validation.run import run_validation
    from saeinterp_mcp.validation.folder import MANIFEST

    execution = ValidationRun.load(config).execution
    if workers is not None:
        execution = execution.model_copy(update={"workers": workers})
    out = run_validation(config, only=only, execution=execution)
    if (out / MANIFEST).is_file():
        for line in summary_of(out):
            typer.echo(line)


def summary_of(out: Path) -> list[str]:
    """What a published folder holds, a line each: tables and their rows, other files, warnings."""
    import pyarrow.parquet as pq

    from saeinterp_mcp.analysis.text import visible
    from saeinterp_mcp.validation.folder import MASTER, Validation

    found = Validation(out)
    lines = [f"{out}: {found.manifest.n_features:,} features of {visible(found.manifest.sae_id)}"]
    others = []
    for name in found.manifest.files:
        if name.startswith(f"{MASTER}/") and name.endswith(".parquet"):
            lines.append(f"  {name}: {pq.ParquetFile(out / name).metadata.num_rows:,} rows")
        elif not name.startswith(f"{MASTER}/"):
            others.append(visible(name))
    lines += [f"  {name}" for name in others]
    model = found.manifest.embedder
    lines.append(f"  texts compared by {'their words only' if model is None else model.name}")
    return lines + [f"  warning: {visible(one)}" for one in found.manifest.warnings]
