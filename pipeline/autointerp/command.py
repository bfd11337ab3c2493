"""The commands `saeinterp-pipeline explain`, `score` and `runs`."""

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen, describe_validation

StoreFolder = Annotated[Path, typer.Argument(help="Folder of a store", exists=False)]
Features = Annotated[
    str | None, typer.Option(help="all, numbers with commas between, or a JSON file with feature_indices")
]
Query = Annotated[str | None, typer.Option(help="Features that fire on this token (--by label: so labelled)")]
By = Annotated[str | None, typer.Option(help="What --query is: token or label")]
Where = Annotated[str | None, typer.Option(help="Filter on metrics, e.g. 'firing_rate>0.01'")]
Sort = Annotated[str | None, typer.Option(help="Metric; default importance")]
Queue = Annotated[int | None, typer.Option(min=1, help="So many of the queue of features to label")]
LimitOption = Annotated[int | None, typer.Option(min=1, help="At most so many, the most important ones")]
Judge = Annotated[str | None, typer.Option(help="Model that judges; default the first of SAEINTERP_JUDGES")]
Trials = Annotated[int, typer.Option(min=20, max=200, help="Held-out trials of a label and method")]
Controls = Annotated[
    int, typer.Option(min=0, help="Features whose trials a wrong label is tried on too, for the report")
]
TextModel = Annotated[str | None, typer.Option(help="local:DIR, for surprisal")]
Think = Annotated[
    int | None,
    typer.Option(min=0, help="Room in answers for models that think first; also SAEINTERP_THINK_TOKENS"),
]
Seed = Annotated[int, typer.Option(min=0, help="Of excerpts and trials")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what it would ask and cost")]
MaxUsd = Annotated[float | None, typer.Option(min=0, help="Ceiling of the run, in dollars")]
MaxCalls = Annotated[int | None, typer.Option(min=0, help="Ceiling of the run, in requests")]
MaxTokens = Annotated[int | None, typer.Option(min=0, help="Ceiling of the run, in tokens")]
FeatureUsd = Annotated[float | None, typer.Option(min=0, help="Ceiling of a feature, in dollars")]
FeatureCalls = Annotated[int | None, typer.Option(min=0, help="Ceiling of a feature, in requests")]
FeatureTokens = Annotated[int | None, typer.Option(min=0, help="Ceiling of a feature, in tokens")]
Concurrency = Annotated[int, typer.Option(min=1, max=256, help="Requests under way at once")]
Batch = Annotated[bool, typer.Option("--batch", help="By message batches: half the price, within a day")]
NeverRepeat = Annotated[
    bool, typer.Option("--never-repeat", help="After a kill leave out what was sent and not answered")
]
Poll = Annotated[float, typer.Option(min=0.01, help="Seconds before a batch is first looked at")]
PriceFile = Annotated[Path | None, typer.Option(help="Prices over the shipped table")]
LabelsFile = Annotated[Path | None, typer.Option(help="Labels file; default beside the store")]
Report = Annotated[Path | None, typer.Option(help="Folder of the report; default STORE.runs/RUN")]


def explain(
    ctx: typer.Context,
    store: StoreFolder,
    features: Features = None,
    query: Query = None,
    by: By = None,
    where: Where = None,
    sort: Sort = None,
    queue: Queue = None,
    limit: LimitOption = None,
    explainer: Annotated[
        str, typer.Option(help="max_activating, contrastive, output_side, or search, which asks no model")
    ] = "max_activating",
    model: Annotated[
        str | None, typer.Option(help="anthropic:MODEL, openai:MODEL[@URL], local:DIR or recorded:FILE")
    ] = None,
    statistics: Annotated[
        bool | None, typer.Option(help="Tell it which tokens go with the feature; default only in sets")
    ] = None,
    vocabulary: Annotated[Path | None, typer.Option(help="Words that search may use, one a line")] = None,
    score: Annotated[
        str | None, typer.Option(help="Then score by these methods, e.g. detection,fuzzing,rule")
    ] = None,
    judge: Judge = None,
    text_model: TextModel = None,
    trials: Trials = 40,
    controls: Controls = 0,
    seed: Seed = 0,
    think_tokens: Think = None,
    dry_run: DryRun = False,
    max_usd: MaxUsd = None,
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    max_usd_per_feature: FeatureUsd = None,
    max_calls_per_feature: FeatureCalls = None,
    max_tokens_per_feature: FeatureTokens = None,
    concurrency: Concurrency = 8,
    batch: Batch = False,
    never_repeat: NeverRepeat = False,
    poll_seconds: Poll = 20.0,
    prices: PriceFile = None,
    labels: LabelsFile = None,
    report: Report = None,
) -> None:
    """Explain features in drafts of labels, and score them. Killed or stopped, it goes on where it was, for nothing."""
    from pipeline.autointerp.config import ExplainConfig, RunConfig
    from pipeline.autointerp.selection import Selection

    config = _made(
        RunConfig,
        explain=_made(
            ExplainConfig,
            explainer=explainer,
            model=model,
            statistics=statistics,
            vocabulary=vocabulary,
            seed=seed,
            think_tokens=_room(think_tokens),
        ),
        score=_scores(score, ctx.params, explained_by=model) if score else None,
        selection=Selection(
            features=features, query=query, by=by, where=where, sort=sort, queue=queue, limit=limit
        ),
    )
    _carry_out(store, config, _execution(ctx.params), labels, report, dry_run)


def score(
    ctx: typer.Context,
    store: StoreFolder,
    methods: Annotated[
        str, typer.Option(help="detection, fuzzing, simulation, embedding, surprisal, intruder, rule")
    ] = "detection",
    features: Features = "all",
    status: Annotated[str | None, typer.Option(help="Labels of this status: draft, supported, ...")] = None,
    author: Annotated[str | None, typer.Option(help="Of this author, or human, agent, import")] = None,
    source: Annotated[str | None, typer.Option(help="Of this source, as `explain:...`")] = None,
    limit: LimitOption = None,
    judge: Judge = None,
    text_model: TextModel = None,
    trials: Trials = 40,
    controls: Controls = 0,
    seed: Seed = 0,
    think_tokens: Think = None,
    dry_run: DryRun = False,
    max_usd: MaxUsd = None,
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    max_usd_per_feature: FeatureUsd = None,
    max_calls_per_feature: FeatureCalls = None,
    max_tokens_per_feature: FeatureTokens = None,
    concurrency: Concurrency = 8,
    batch: Batch = False,
    never_repeat: NeverRepeat = False,
    poll_seconds: Poll = 20.0,
    prices: PriceFile = None,
    labels: LabelsFile = None,
    report: Report = None,
) -> None:
    """Score labels that are in the store, whoever wrote them, on held-out samples."""
    from pipeline.autointerp.config import LabelChoice, RunConfig
    from pipeline.autointerp.selection import Selection

    config = _made(
        RunConfig,
        score=_scores(methods, ctx.params),
        selection=Selection(features=features, limit=limit),
        labels=_made(LabelChoice, status=status, author=author, source=source),
    )
    _carry_out(store, config, _execution(ctx.params), labels, report, dry_run)


def runs(store: StoreFolder, labels: LabelsFile = None) -> None:
    """Runs over a store: how far each is, and what it cost. The newest first."""
    from pipeline.autointerp.start import opened, runs_table

    place, ledger = opened(store, labels)
    for line in runs_table(ledger.runs_of(place.lineage)):
        typer.echo(line)


def _carry_out(
    store: Path, config: Any, execution: Any, labels: Path | None, report: Path | None, dry: bool
) -> None:
    if dry:
        from pipeline.autointerp.estimate import dry_run, in_words
        from pipeline.autointerp.start import opened, planned

        place, ledger = opened(store, labels)
        tasks, _ = planned(place, config, ledger, claim=False)
        typer.echo(in_words(dry_run(place, ledger, config, execution, tasks)))
        return
    from pipeline.autointerp.report_markdown import summary_lines
    from pipeline.autointerp.start import start_run

    done = start_run(store, config, execution, labels, report)
    for line in summary_lines(done.results):
        typer.echo(line)
    typer.echo(f"{done.report / 'report.html'}")
    if done.results.state != "done":
        raise typer.Exit(2)


def _execution(given: dict[str, Any]) -> Any:
    """How the run is carried out, of the options that both commands have."""
    from pipeline.autointerp.config import Execution
    from saeinterp_mcp.asking.budget import Budget

    budget = _made(Budget, **{name: given[name] for name in Budget.model_fields})
    rest = {name: given[name] for name in Execution.model_fields if name != "budget"}
    return _made(Execution, **rest, budget=budget)


def _scores(methods: str, given: dict[str, Any], explained_by: str | None = None) -> Any:
    """How labels are scored; a judge that nobody named is one of the operator's that did not explain."""
    from pipeline.autointerp.config import ScoreConfig
    from pipeline.autointerp.scoring import needs_judge
    from saeinterp_mcp.config import Settings

    config = _made(
        ScoreConfig,
        methods=[method.strip() for method in methods.split(",") if method.strip()],
        text_model=given["text_model"],
        n_trials=given["trials"],
        n_controls=given["controls"],
        seed=given["seed"],
        think_tokens=_room(given["think_tokens"]),
        judge=given["judge"],
    )
    if not any(map(needs_judge, config.methods)):
        return config.model_copy(update={"judge": None})
    if config.judge is not None:
        return config
    others = [spec for spec in Settings.from_environment().judges if spec != explained_by]
    if not others:
        raise BadInput(
            f"methods {methods} need a judge: name one with --judge, best another model than the one that explains "
            "(or set SAEINTERP_JUDGES)"
        )
    return config.model_copy(update={"judge": others[0]})


def _room(think_tokens: int | None) -> int:
    from saeinterp_mcp.config import Settings

    return Settings.from_environment().think_tokens if think_tokens is None else think_tokens


def _made(kind: type[Frozen], **values: Any) -> Any:
    """A config; what does not fit is the caller's mistake."""
    try:
        return kind(**values)
    except ValidationError as error:
        raise BadInput(describe_validation(error)) from error
