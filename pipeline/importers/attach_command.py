"""The command `saeinterp-pipeline attach`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

LISTED = 20
"""Bad files that are named one by one."""


def attach(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="Folders with explanations/ and scores/ (delphi runs, SAE_vis sources), or a folder of such"
        ),
    ],
    store: Annotated[Path, typer.Option(help="Folder of the store that they are about")],
    explainer: Annotated[
        str | None, typer.Option(help="Model that explained; default what run_config.json says")
    ] = None,
    scorer: Annotated[str | None, typer.Option(help="Model that scored; default the same")] = None,
    hookpoint: Annotated[str | None, typer.Option(help="Which, where a folder holds several")] = None,
    bad_files: Annotated[
        Literal["skip", "stop"], typer.Option(help="A bad file is told and passed over, or ends it")
    ] = "skip",
) -> None:
    """Put other people's explanations and scores beside a store: tables in STORE.validation, drafts of labels."""
    from pipeline.importers.attach import attach as attach_sources
    from pipeline.importers.attach import sources_of
    from saeinterp_mcp.analysis.text import visible

    done = attach_sources(sources_of(sources, explainer, scorer, hookpoint), store, bad_files)
    for line in done.lines:
        typer.echo(visible(line))
    for problem in done.problems[:LISTED]:
        typer.echo(visible(f"  {problem.kind:10} {problem.path}: {problem.reason}"))
    if len(done.problems) > LISTED:
        typer.echo(f"  ... and {len(done.problems) - LISTED} more bad files")
