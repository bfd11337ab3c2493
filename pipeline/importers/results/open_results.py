"""What a folder of explanations and scores is, and its files one by one (delphi's layout, both generations)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.importers.results.explanation_files import read_explanation
from pipeline.importers.results.names import Named, files_of, same
from pipeline.importers.results.records import RUNAWAY, Explanation, Problem, Results, ScoreFile
from pipeline.importers.results.score_files import method_named, read_score
from saeinterp_mcp.errors import BadInput, BadStore, nearest
from saeinterp_mcp.loaders.files import read_json
from saeinterp_mcp.validation.names import sae_id

RUN_CONFIG, EXPLANATIONS, SCORES, LATENTS = "run_config.json", "explanations", "scores", "latents"
_BY_FOLDER = re.compile(r"(?P<explainer>.+)_e-(?P<scorer>.+)_s")
METHOD = "quantiles"
"""How delphi and SAE_vis choose an explainer's examples where nothing else is said."""


class _Found(NamedTuple):
    """The files of one hookpoint, in the order in which they are read."""

    explanations: list[Named]
    scores: list[tuple[str, Named]]
    """Folder and file."""
    unnamed: tuple[list[Problem], list[Problem]]
    """What is passed over by its name, of explanations and of scores."""
    n_others: int
    """Files of other hookpoints, which were not asked for."""


def open_results(
    path: Path,
    explainer: str | None = None,
    scorer: str | None = None,
    hookpoint: str | None = None,
    runaway_characters: int = RUNAWAY,
) -> Results:
    """Open a run directory, or a folder with `explanations/` and `scores/`.

    Raises:
        BadInput: there is nothing of that kind in it; it holds several hookpoints and none was chosen; nobody says who
            explained, or who scored.
    """
    explained = list(files_of(path / EXPLANATIONS))
    scored = [one for one in files_of(path / SCORES) if one.relative.count("/")]
    loose = [one for one in files_of(path / SCORES) if not one.relative.count("/")]
    scores = [_in_folder(one) for one in scored]
    if not any(one.hookpoint is not None for one in [*explained, *(one for _, one in scores)]):
        raise BadInput(
            f"{path} holds no results: neither {EXPLANATIONS}/<hookpoint>_latent<number>.txt nor "
            f"{SCORES}/<method>/<hookpoint>_latent<number>.txt"
        )
    config, config_notes = read_config(path)
    known = hookpoints_of(path, config, explained)
    chosen = choose_hookpoint(path, known, [*explained, *(one for _, one in scores)], hookpoint)
    found = _of_hookpoint(chosen, explained, scores, loose, known if hookpoint is None else None)
    who, judge, notes = _models(
        path, config, explainer, scorer, bool(found.scores), "; ".join(config_notes) or RUN_CONFIG
    )
    notes = [*config_notes, *notes]
    if found.n_others:
        notes.append(f"{found.n_others} files of other hookpoints left out")
    files = {f"{EXPLANATIONS}/{one.relative}": one.path for one in found.explanations}
    files |= {f"{SCORES}/{folder}/{one.relative}": one.path for folder, one in found.scores}
    if (path / RUN_CONFIG).is_file():
        files[RUN_CONFIG] = path / RUN_CONFIG

    def explanations(problems: list[Problem]) -> Iterator[Explanation]:
        return _explanations(found, runaway_characters, problems)

    def score_files(problems: list[Problem]) -> Iterator[ScoreFile]:
        return _scores(found, problems)

    return Results(
        path=path,
        hookpoint=chosen,
        sae_id=_sae_id(config, chosen),
        explainer=who,
        scorer=judge,
        method=METHOD,
        files=files,
        explanations=explanations,
        scores=score_files,
        notes=tuple(notes),
    )


def read_config(run: Path) -> tuple[dict[str, Any], list[str]]:
    """(what `run_config.json` says, what to tell of it); one that is missing or damaged says nothing."""
    path = run / RUN_CONFIG
    if not path.is_file():
        return {}, []
    try:
        return read_json(path), []
    except BadStore as error:
        why = error.__cause__ or "it is JSON of another kind"
        return {}, [f"{RUN_CONFIG} is no JSON object and was not read: {why}"]


def choose_hookpoint(path: Path, known: set[str], named: list[Named], wanted: str | None) -> str:
    """The hookpoint whose files are read, as the run spells it.

    Raises:
        BadInput: there are several and none was chosen, or the chosen one is not there.
    """
    seen = {_spelled(one.hookpoint, known) for one in named if one.hookpoint is not None}
    if wanted is not None:
        match = next((one for one in sorted(seen) if same(one, wanted) or same(wanted, one)), None)
        if match is None:
            raise BadInput(
                f"{path} holds no file of the hookpoint {wanted!r}; {nearest(wanted, sorted(seen))}"
            )
        return match
    likely = seen & known or seen
    if len(likely) > 1:
        names = ", ".join(map(repr, sorted(likely)[:8]))
        raise BadInput(f"{path} holds {len(likely)} hookpoints, name one (--hookpoint): {names}")
    return likely.pop()


def hookpoints_of(path: Path, config: dict[str, Any], explained: list[Named]) -> set[str]:
    """Hookpoints that the run's config names (`layers.3` for Gemma Scope's `layer_3/...`), that have a cache of
    latents, or whose `/` made folders of explanations."""
    listed = config.get("hookpoints")
    names = {str(one) for one in listed} if isinstance(listed, list) else set()
    names |= {f"layers.{match[1]}" for one in names if (match := re.fullmatch(r"layer_(\d+)/.+", one))}
    latents = path / LATENTS
    if latents.is_dir():
        names |= {one.parent.relative_to(latents).as_posix() for one in latents.rglob("config.json")}
        names |= {one.parent.relative_to(latents).as_posix() for one in latents.rglob("*_*.safetensors")}
    names |= {one.hookpoint for one in explained if one.hookpoint is not None and "/" in one.hookpoint}
    return names - {"."}


def _spelled(name: str, known: set[str]) -> str:
    """A hookpoint as the run spells it, where the file's name has `--` for its `/`."""
    return next((one for one in sorted(known) if same(name, one)), name)


def _in_folder(one: Named) -> tuple[str, Named]:
    """A file below `scores/`: the method's folder, and the file by its name in that folder."""
    folder, _, inside = one.relative.partition("/")
    hookpoint = one.hookpoint.partition("/")[2] if one.hookpoint is not None else None
    return folder, one._replace(relative=inside, hookpoint=hookpoint)


def _of_hookpoint(
    chosen: str,
    explained: list[Named],
    scores: list[tuple[str, Named]],
    loose: list[Named],
    known: set[str] | None,
) -> _Found:
    """Sort the files; what is of no name, or of a hookpoint that is not among the known ones, is told.

    `known` is None where the hookpoint was chosen by the caller, who then knows that there are others.
    """
    order = [
        (method_named(folder) or "~", folder, _first(one), one) for folder, one in scores if _is(one, chosen)
    ]
    ordered = [(folder, one) for _, folder, _, one in sorted(order, key=lambda entry: entry[:3])]
    rest = (
        [one for one in explained if not _is(one, chosen)],
        [one for _, one in scores if not _is(one, chosen)],
    )
    told = [[one for one in part if not _is_other(one, known)] for part in rest]
    explanations, results = (
        [Problem(one.path, "unnamed", _why(one, chosen)) for one in part] for part in told
    )
    results += [Problem(one.path, "foreign", "lies beside the folders of methods") for one in loose]
    return _Found(
        sorted((one for one in explained if _is(one, chosen)), key=_first),
        ordered,
        (explanations, results),
        sum(map(len, rest)) - sum(map(len, told)),
    )


def _is_other(one: Named, known: set[str] | None) -> bool:
    """Whether a file is of a hookpoint that was not asked for, and that is no surprise."""
    if one.hookpoint is None:
        return False
    return known is None or _spelled(one.hookpoint, known) in known


def _first(one: Named) -> tuple[int, int, str]:
    """Sorts files by their feature; of two for one feature the plainer name comes first (`5`, not `005`)."""
    return one.feature, len(one.relative), one.relative


def _is(one: Named, chosen: str) -> bool:
    return one.hookpoint is not None and same(one.hookpoint, chosen)


def _why(one: Named, chosen: str) -> str:
    if one.hookpoint is None:
        return "its name is not <hookpoint>_latent<number>.txt"
    return f"of the hookpoint {one.hookpoint!r}, not {chosen!r}"


def _explanations(found: _Found, runaway_characters: int, problems: list[Problem]) -> Iterator[Explanation]:
    problems.extend(found.unnamed[0])
    last: Explanation | None = None
    for one in found.explanations:
        if last is not None and last.feature == one.feature:
            problems.append(Problem(one.path, "duplicate", f"feature {one.feature} is in {last.path.name}"))
            continue
        read = read_explanation(one.path, one.feature, runaway_characters)
        if isinstance(read, Problem):
            problems.append(read)
        else:
            last = read
            yield read


def _scores(found: _Found, problems: list[Problem]) -> Iterator[ScoreFile]:
    problems.extend(found.unnamed[1])
    explained = {one.feature for one in found.explanations}
    seen: dict[tuple[str, int], str] = {}
    for folder, one in found.scores:
        # a run that only scores has its explanations elsewhere
        if explained and one.feature not in explained:
            problems.append(Problem(one.path, "orphan", f"feature {one.feature} has no explanation here"))
            continue
        read = read_score(one.path, one.feature, folder)
        if isinstance(read, Problem):
            problems.append(read)
            continue
        key = (read.method, read.feature)
        if key in seen:
            why = f"{read.method} of feature {read.feature} is in {SCORES}/{seen[key]}"
            problems.append(Problem(one.path, "duplicate", why))
            continue
        seen[key] = folder
        yield read


def _models(
    path: Path, config: dict[str, Any], explainer: str | None, scorer: str | None, has_scores: bool, told: str
) -> tuple[str, str | None, list[str]]:
    """Who explained, who scored, and what was decided about it.

    Raises:
        BadInput: nobody says who; the message holds what is told of the file that should.
    """
    notes: list[str] = []
    said = config.get("explainer_model")
    model = said if isinstance(said, str) and said else None
    by_folder = _BY_FOLDER.fullmatch(path.resolve().name)
    # a run without an explainer of its own scores what another one wrote
    who = explainer or (model if config.get("explainer") != "none" else None)
    judge = scorer or model
    if who is None and by_folder is not None:
        who = by_folder["explainer"]
        notes.append(f"who explained is known by the folder's name only: {who}")
    if judge is None and by_folder is not None and has_scores:
        judge = by_folder["scorer"]
        notes.append(f"who scored is known by the folder's name only: {judge}")
    if who is None:
        raise BadInput(f"{path}: nobody says which model explained ({told}); give it (--explainer)")
    if judge is None and has_scores:
        raise BadInput(f"{path}: nobody says which model scored ({told}); give it (--scorer)")
    if model is not None and explainer is None and scorer is None and config.get("explainer") != "none":
        notes.append(f"{RUN_CONFIG} names one model, {model}: it is taken for explainer and scorer")
    return who, judge if has_scores else None, notes


def _sae_id(config: dict[str, Any], hookpoint: str) -> str | None:
    """`sparse_model` and its part for this hookpoint, in our spelling.

    Gemma Scope is asked for as `layer_30/width_16k/...`, and its files are named `layers.30`.
    """
    model, listed = config.get("sparse_model"), config.get("hookpoints")
    if not isinstance(model, str) or not model:
        return None
    names = [str(one) for one in listed] if isinstance(listed, list) else []
    if hookpoint in names or not names:
        return sae_id(f"{model}/{hookpoint}")
    layer = re.fullmatch(r"layers\.(\d+)(\..*)?", hookpoint)
    fitting = [one for one in names if layer is not None and one.split("/")[0] == f"layer_{layer[1]}"]
    return sae_id(f"{model}/{fitting[0]}") if len(fitting) == 1 else None
