"""A delphi run: its cache of latents is a full store of sequences; explanations and scores go beside it."""

from functools import partial
from pathlib import Path
from typing import Any

from pipeline.importers.delphi_cache import Cache, SplitPiece, n_infinite, open_cache, token_tables
from pipeline.importers.results.open_results import RUN_CONFIG, read_config
from pipeline.importers.source import Source, SourceSection
from pipeline.sources.tokenizer_folder import find_tokenizer, tokenizer_files
from saeinterp_mcp.errors import BadInput, nearest
from saeinterp_mcp.loaders.files import read_json

MOST_TOLD = 20
"""Bad files that are named one by one."""
LATENTS, CACHE_CONFIG = "latents", "config.json"
SPELLINGS = {
    "dataset_repo": ("dataset_repo",),
    "dataset_split": ("dataset_split",),
    "dataset_name": ("dataset_name",),
    "dataset_column": ("dataset_column", "dataset_row"),
    "cache_ctx_len": ("cache_ctx_len", "ctx_len"),
    "n_tokens": ("n_tokens",),
    "n_splits": ("n_splits",),
    "model_name": ("model_name",),
}
"""Key of a cache's config to its names in present and older files."""


def open_delphi(section: SourceSection) -> Source:
    """A run directory, its `latents/`, or the folder of one hookpoint in it.

    Raises:
        BadInput: no cache, several hookpoints and none was chosen, no tokens, or no such tokenizer.
        BadStore: a split is damaged or missing.
    """
    run, hookpoint, folder = find_cache(section.path, section.hookpoint)
    cache = open_cache(folder)
    config = cache_config(folder)
    run_config, damaged = read_config(run) if run is not None else ({}, [])
    n_features = section.n_features or cache.width
    clip = section.bad_files == "skip"
    files = {f"latents/{split.path.name}": split.path for split in cache.splits}
    if (folder / CACHE_CONFIG).is_file():
        files[f"latents/{CACHE_CONFIG}"] = folder / CACHE_CONFIG
    if run is not None and (run / RUN_CONFIG).is_file():
        files[RUN_CONFIG] = run / RUN_CONFIG
    tokenizer, told = _tokenizer(section, config)
    if tokenizer is not None:
        files |= {f"tokenizer/{name}": path for name, path in tokenizer_files(tokenizer).items()}
    notes = [*damaged, *_notes(cache, config, run_config, n_features, run), *told]
    if clip and (n := n_infinite(cache)):
        notes.append(
            f"{n} activations were above what float16 holds; they are taken for 65504, the least they can be"
        )
    return Source(
        n_rows=cache.n_rows * cache.ctx,
        n_features=n_features,
        pieces=tuple(
            SplitPiece(split, cache.tokens, n_features, clip, section.negatives) for split in cache.splits
        ),
        files=files,
        tables=partial(token_tables, cache),
        token_names=None if tokenizer is None else partial(_token_names, tokenizer),
        notes=tuple(notes),
        provenance={
            **config,
            "hookpoint": hookpoint,
            **{name: run_config[name] for name in ("filter_bos", "seed") if name in run_config},
        },
        model=_named(config.get("model_name") or run_config.get("model")),
        sae=_named(run_config.get("sparse_model"), hookpoint=hookpoint),
    )


def find_cache(path: Path, wanted: str | None) -> tuple[Path | None, str, Path]:
    """(run directory if it is one, hookpoint, folder with its splits).

    Raises:
        BadInput: there is no cache, or several and none was chosen.
    """
    if path.is_dir() and any(path.glob("*_*.safetensors")):
        return None, wanted or path.resolve().name, path
    latents = path / LATENTS if (path / LATENTS).is_dir() else path
    run = path if latents != path else path.parent if path.name == LATENTS else None
    found = {
        folder.relative_to(latents).as_posix(): folder
        for folder in sorted({split.parent for split in latents.rglob("*_*.safetensors")})
    }
    if not found:
        raise BadInput(
            f"{path} holds no cache of latents: no latents/<hookpoint>/{{start}}_{{end}}.safetensors. Explanations and "
            "scores alone go beside a store of your own with `saeinterp-pipeline attach`"
        )
    if wanted is not None and wanted not in found:
        raise BadInput(f"{path} has no hookpoint {wanted!r}; {nearest(wanted, found)}")
    if wanted is None and len(found) > 1:
        names = ", ".join(map(repr, list(found)[:8]))
        raise BadInput(
            f"{path} holds {len(found)} hookpoints, a store is of one; choose it with --hookpoint: {names}"
        )
    chosen = wanted or next(iter(found))
    return run, chosen, found[chosen]


def cache_config(folder: Path) -> dict[str, Any]:
    """What the cache's config says, in the present spelling; nothing without one."""
    path = folder / CACHE_CONFIG
    said = read_json(path) if path.is_file() else {}
    return {
        name: said[spelling]
        for name, spellings in SPELLINGS.items()
        for spelling in [next((one for one in spellings if one in said), None)]
        if spelling is not None and isinstance(said[spelling], str | int | float | None)
    }


def _tokenizer(section: SourceSection, config: dict[str, Any]) -> tuple[Path | None, list[str]]:
    """The folder of the tokenizer, and what to tell where there is none."""
    if section.vocab is not None:
        return None, []
    if section.tokenizer is not None:
        return find_tokenizer(section.tokenizer), []
    name = config.get("model_name")
    try:
        if isinstance(name, str) and name:
            return find_tokenizer(name), []
    except BadInput:
        pass
    said = f"that of {name!r} is not on this machine" if name else "the cache does not name its model"
    return None, [
        f"tokens are their ids: {said}; give a tokenizer (--tokenizer) and import again to read them"
    ]


def _token_names(folder: Path) -> dict[int, str]:
    """Id to readable string."""
    from pipeline.source_config import ModelConfig
    from pipeline.sources.tokenizer import Tokenizer

    return dict(enumerate(Tokenizer(ModelConfig(path=folder)).token_strings()))


def _notes(
    cache: Cache, config: dict[str, Any], run_config: dict[str, Any], n_features: int, run: Path | None
) -> list[str]:
    notes = [
        f"a sample is a row of {cache.ctx} tokens of delphi's cache. Rows were cut from one stream of documents"
        + (", without BOS tokens (filter_bos)" if run_config.get("filter_bos") else "")
        + ": one may hold parts of several documents, and intervals take rows for independent",
        "delphi keeps activations above 0.00001, as float16",
    ]
    if run_config.get("filter_bos") is False:
        notes.append("BOS tokens are among the tokens and count (filter_bos was off)")
    if "filter_bos" not in run_config:
        notes.append("nothing says whether BOS tokens were taken out (no run_config.json)")
    said = config.get("cache_ctx_len")
    if said not in (None, cache.ctx):
        notes.append(f"the cache's config says rows of {said} tokens, the tokens have {cache.ctx}")
    if n_features > cache.width:
        notes.append(
            f"features {cache.width} to {n_features - 1} are in no split: they look silent, and were not looked at"
        )
    elif n_features == cache.width and len(_hookpoints(cache, run)) > 1:
        notes.append(
            f"{n_features} features, as the splits say; delphi cuts all hookpoints of a run by the width of the first, "
            "so a wider SAE has lost features here (--n-features tells how many there are)"
        )
    if run is not None and (run / "log" / "hookpoint_firing_counts.pt").is_file():
        notes.append(
            "log/hookpoint_firing_counts.pt is a pickle and was not opened; firings are counted anew"
        )
    return notes


def _hookpoints(cache: Cache, run: Path | None) -> set[Path]:
    return set() if run is None else {one.parent for one in (run / LATENTS).rglob("*_*.safetensors")}


def _named(name: Any, **more: Any) -> dict[str, Any] | None:
    return {"name": name, **more} if isinstance(name, str) and name else None


def after_delphi(section: SourceSection, store: Path) -> tuple[str, ...]:
    """Explanations as drafts, scores, explanations and neighbours as tables beside the store; what to tell of it.

    Raises:
        BadInput: a bad file, where these stop the import.
    """
    run, hookpoint, _ = find_cache(section.path, section.hookpoint)
    if run is None or not any((run / part).is_dir() for part in ("explanations", "scores", "neighbours")):
        return ()
    from pipeline.importers.attach import attach, source_name
    from pipeline.validation.config import DataSource

    source = DataSource(
        name=source_name(run),
        path=run,
        llm_explainer=section.explainer,
        llm_scorer=section.scorer,
        hookpoint=hookpoint,
    )
    try:
        done = attach([source], store, section.bad_files)
    except BadInput as error:
        if section.bad_files == "stop":
            raise
        return (f"{store} is made, explanations and scores were left out: {error}",)
    problems = [f"  {one.kind}: {one.path}: {one.reason}" for one in done.problems[:MOST_TOLD]]
    more = len(done.problems) - len(problems)
    return (*done.lines, *problems, *([f"  ... and {more} more bad files"] if more else []))
