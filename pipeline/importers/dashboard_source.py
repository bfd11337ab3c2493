"""SAEDashboard's output: a sampled store; its statistics go beside it.

Two forms: the folder of its Neuronpedia runner (`batch-N.json`, `run_settings.json`, `skipped_indexes.json`), whose
tokens are strings, and a file of `SaeVisData.save_json`, whose tokens are ids that a tokenizer or a vocabulary names.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.importers.json_lines import BadPart, BadParts, document, natural
from pipeline.importers.jsonl_source import state
from pipeline.importers.neuronpedia_source import SAMPLED
from pipeline.importers.published import PublishedFigures, figures_of, publish_figures
from pipeline.importers.source import Source, SourceSection
from pipeline.importers.token_examples import TokenExamples
from pipeline.sources.tokenizer_folder import find_tokenizer, tokenizer_files
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.loaders.metadata import read_vocabulary

BATCH = re.compile(r"batch-(\d+)\.json(\.gz)?")
SETTINGS, SKIPPED = "run_settings.json", "skipped_indexes.json"
DENSITY = re.compile(r"DENSITY = ([0-9.]+)%")
TOP = "TOP ACTIVATIONS"
UNPARSED_MAXIMUM = 99
"""`bin_max` of the strongest examples where their title could not be read."""


class Opened(NamedTuple):
    """What was read."""

    examples: TokenExamples
    figures: PublishedFigures
    n_features: int
    sae: str
    model: str | None
    by_ids: bool
    """Whether tokens are ids."""
    names: dict[int, str] | None
    """What these stand for; None where nobody says."""
    notes: tuple[str, ...]


class Layout(NamedTuple):
    """Which files there are."""

    batches: tuple[Path, ...]
    """Of the runner."""
    vis: Path | None
    """A file of `save_json`."""
    beside: tuple[Path, ...]


def open_dashboard(section: SourceSection) -> Source:
    """A runner's folder, or a file of `save_json`, read once.

    Raises:
        BadInput: it is neither; or a bad file or feature, with the reason.
    """
    opened, layout = _opened(section)
    spool = opened.examples.spool
    names = opened.names
    return Source(
        n_rows=spool.n_rows,
        n_features=opened.n_features,
        pieces=spool.pieces(),
        files={path.name: path for path in _files(layout)} | _tokenizer_files(section),
        tables=lambda: spool.tables(section.path),
        token_names=spool.token_names if not opened.by_ids else None if names is None else lambda: names,
        coverage="sampled",
        notes=opened.notes,
        model={"name": opened.model} if opened.model else None,
        sae={"name": opened.sae},
    )


def after_dashboard(section: SourceSection, store: Path) -> tuple[str, ...]:
    """The figures become a table beside the store."""
    opened, _ = _opened(section)
    return publish_figures(store, opened.figures, opened.sae, f"sae-dashboard:{opened.sae}")


def _opened(section: SourceSection) -> tuple[Opened, Layout]:
    layout = find_layout(section.path)
    for name in ("metadata", "weapon_vocab"):
        if getattr(section, name) is not None:
            option = "--" + name.replace("_", "-")
            raise BadInput(f"a dashboard has samples of its own; leave {option} out")
    for name in ("vocab", "tokenizer"):
        if layout.vis is None and getattr(section, name) is not None:
            raise BadInput(f"the runner's folder holds tokens as strings; leave --{name} out")
    given = [section.vocab] if section.vocab is not None else []
    return _read(section, layout, tuple(state(path) for path in [*_files(layout), *given])), layout


def find_layout(path: Path) -> Layout:
    """The files of a dashboard.

    Raises:
        BadInput: there are none.
    """
    if path.is_file():
        return Layout((), path, ())
    found = (
        [(int(m.group(1)), p) for p in path.iterdir() if (m := BATCH.fullmatch(p.name))]
        if path.is_dir()
        else []
    )
    if found:
        beside = tuple(path / name for name in (SETTINGS, SKIPPED) if (path / name).is_file())
        return Layout(tuple(p for _, p in sorted(found)), None, beside)
    raise BadInput(
        f"{path} is neither a folder of SAEDashboard's Neuronpedia runner (batch-0.json, ...) nor a file of "
        "SaeVisData.save_json"
    )


def _files(layout: Layout) -> list[Path]:
    return [*layout.batches, *([layout.vis] if layout.vis else []), *layout.beside]


def _tokenizer_files(section: SourceSection) -> dict[str, Path]:
    if section.tokenizer is None:
        return {}
    found = tokenizer_files(find_tokenizer(section.tokenizer))
    return {f"tokenizer/{name}": path for name, path in found.items()}


@lru_cache(maxsize=1)
def _read(section: SourceSection, layout: Layout, states: Any) -> Opened:
    reader = _Reader(section)
    if layout.vis is not None:
        return reader.read_vis(layout.vis)
    return reader.read_batches(layout)


class _Reader:
    def __init__(self, section: SourceSection) -> None:
        self.section, self.bad = section, BadParts(section.bad_files)
        self.examples, self.figures = TokenExamples(section.negatives), PublishedFigures()
        self.firing: set[int] = set()
        self.highest = -1

    def read_batches(self, layout: Layout) -> Opened:
        """The runner's folder."""
        sae: str | None = None
        model: str | None = None
        for path in layout.batches:
            try:
                content = _object(document(path))
                name = "/".join(str(content.get(key)) for key in ("model_id", "layer", "sae_set"))
                suffix = content.get("sae_id_suffix")
                name += f"__{suffix}" if suffix else ""
                if sae not in (None, name):
                    raise BadPart("of another SAE", f"it is of {name}, other batches are of {sae}")
                features = content.get("features")
                if not isinstance(features, list):
                    raise BadPart("no features", "it has no list of features")
                sae, model = name, str(content.get("model_id") or "") or None
            except BadPart as error:
                self.bad.met(path, "", error)
                continue
            except BadInput as error:
                if not self.bad.skips:
                    raise
                self.bad.met(path, "", BadPart("file that is no JSON", str(error)))
                continue
            for number, values in enumerate(features):
                try:
                    self._add_feature(path, _object(values), number)
                except BadPart as error:
                    self.bad.met(path, f"feature {number} of the file", error)
        n_features = self.section.n_features or max(self.highest, _highest_skipped(layout)) + 1
        return self._close(n_features, self.section.hookpoint or sae or "", model, None)

    def read_vis(self, path: Path) -> Opened:
        """A file of `save_json`."""
        self.examples = TokenExamples(self.section.negatives, ids=True)
        content = document(path)
        features = content.get("feature_data_dict") if isinstance(content, dict) else None
        if not isinstance(features, dict) or not features:
            raise BadInput(f"{path} is no file of SaeVisData.save_json: it has no feature_data_dict")
        statistics = content.get("feature_stats")
        maxima = _maxima(statistics if isinstance(statistics, dict) else {}, len(features))
        names = self._token_names()
        for number, (key, values) in enumerate(features.items()):
            try:
                feature = self._feature(key)
                found = _object(values)
                self.figures.add(feature, _figures_of_vis(found, maxima[number], names))
                self._add_groups(path, feature, found, names)
            except BadPart as error:
                self.bad.met(path, f"feature {str(key)[:20]}", error)
        n_features = self.section.n_features or self.highest + 1
        return self._close(n_features, self.section.hookpoint or self.section.name, None, names)

    def _feature(self, value: Any) -> int:
        feature = natural(value, "the feature's index")
        limit = self.section.n_features
        if limit is not None and feature >= limit:
            raise BadPart("feature out of range", f"feature {feature} is not in 0 to {limit - 1}")
        self.highest = max(self.highest, feature)
        return feature

    def _add_feature(self, path: Path, values: dict[str, Any], number: int) -> None:
        feature = self._feature(values.get("feature_index"))
        examples = values.get("activations")
        if not isinstance(examples, list):
            raise BadPart("no activations", "it has no list of activations")
        maximum = max(
            (_top_maximum(one) for one in examples), default=None, key=lambda m: -1 if m is None else m
        )
        self.figures.add(feature, figures_of({**values, "maxActApprox": maximum}))
        for place, example in enumerate(examples):
            try:
                found = _object(example)
                self._add_example(feature, found.get("tokens"), found.get("values"), place)
                self.examples.add_bin(*(found.get(f"bin_{name}") for name in ("min", "max", "contains")))
            except BadPart as error:
                self.bad.met(path, f"feature {feature}, activation {place}", error)

    def _add_groups(
        self, path: Path, feature: int, values: dict[str, Any], names: dict[int, str] | None
    ) -> None:
        for title, place, sequence in _sequences(values):
            try:
                found = _object(sequence)
                ids = found.get("token_ids")
                _need_names(ids, names)
                self._add_example(feature, ids, found.get("feat_acts"), place)
                self.examples.add_bin(-1 if TOP in title else 0, None, "INTERVAL" in title)
            except BadPart as error:
                self.bad.met(path, f"feature {feature}, sequence {place}", error)

    def _add_example(self, feature: int, tokens: Any, values: Any, place: int) -> None:
        if self.examples.add(feature, tokens, values, place):
            self.firing.add(feature)

    def _token_names(self) -> dict[int, str] | None:
        if self.section.vocab is not None:
            return read_vocabulary(self.section.vocab)
        if self.section.tokenizer is None:
            return None
        from pipeline.source_config import ModelConfig
        from pipeline.sources.tokenizer import Tokenizer

        model = ModelConfig(path=find_tokenizer(self.section.tokenizer))
        return dict(enumerate(Tokenizer(model).token_strings()))

    def _close(self, n_features: int, sae: str, model: str | None, names: dict[int, str] | None) -> Opened:
        if self.examples.is_empty:
            raise BadInput(f"{self.section.path} holds no example that can be taken in")
        notes = [*self.examples.close(), SAMPLED]
        by_ids = self.examples.ids
        if by_ids and names is None:
            notes.append("tokens are their ids; --tokenizer or --vocab names them")
        if n := self.figures.unknown_rate(self.firing.__contains__):
            notes.append(f"the density is 0 of {n} features that have activations: taken for not known")
        if self.section.n_features is None:
            notes.append(
                f"n_features is the highest index there is and one ({n_features}); --n-features says better"
            )
        return Opened(
            self.examples, self.figures, n_features, sae, model, by_ids, names, (*notes, *self.bad.notes())
        )


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadPart("no JSON object", f"expected a JSON object, found {type(value).__name__}")
    return value


def _need_names(ids: Any, names: Mapping[int, str] | None) -> None:
    for one in ids if isinstance(ids, list) and names is not None else ():
        if type(one) is int and names is not None and one not in names:
            raise BadPart("token without a name", f"token {one} is not in the vocabulary given")


def _top_maximum(example: Any) -> float | None:
    """The feature's maximum, as an example of the top group has it."""
    if not isinstance(example, dict) or example.get("bin_min") != -1:
        return None
    value: Any = example.get("bin_max")
    known = isinstance(value, int | float) and not isinstance(value, bool) and value != UNPARSED_MAXIMUM
    return float(value) if known else None


def _highest_skipped(layout: Layout) -> int:
    """The highest feature that the run left out."""
    for path in layout.beside:
        if path.name == SKIPPED:
            content = document(path)
            found = content.get("skipped_indexes") if isinstance(content, dict) else None
            numbers = (
                [i for i in found if type(i) is int and 0 <= i < 2**32 - 1] if isinstance(found, list) else []
            )
            return max(numbers, default=-1)
    return -1


def _maxima(statistics: Mapping[str, Any], n: int) -> list[Any]:
    """Of the features in their order; None where the file does not tell."""
    found = statistics.get("max")
    return found if isinstance(found, list) and len(found) == n else [None] * n


def _sequences(values: Mapping[str, Any]) -> Iterator[tuple[str, int, Any]]:
    """(title of the group, place in the feature, sequence)."""
    groups = _object(values.get("sequence_data")).get("seq_group_data")
    if not isinstance(groups, list):
        raise BadPart("no sequences", "it has no groups of sequences")
    place = 0
    for group in groups:
        found = _object(group)
        for sequence in found.get("seq_data") or ():
            yield str(found.get("title")), place, sequence
            place += 1


def _figures_of_vis(values: Mapping[str, Any], maximum: Any, names: dict[int, str] | None) -> dict[str, Any]:
    activations, logits, table = (
        _object(values.get(name) or {})
        for name in ("acts_histogram_data", "logits_histogram_data", "logits_table_data")
    )
    density = DENSITY.search(str(activations.get("title")))

    def spelled(ids: Any) -> list[str]:
        found = ids if isinstance(ids, list) else []
        return [str(i) if names is None else names.get(i, str(i)) for i in found]

    return figures_of(
        {
            "frac_nonzero": None if density is None else float(density.group(1)) / 100,
            "maxActApprox": maximum,
            "freq_hist_data_bar_values": activations.get("bar_values"),
            "freq_hist_data_bar_heights": activations.get("bar_heights"),
            "logits_hist_data_bar_values": logits.get("bar_values"),
            "logits_hist_data_bar_heights": logits.get("bar_heights"),
            "pos_str": spelled(table.get("top_token_ids")),
            "pos_values": table.get("top_logits"),
            "neg_str": spelled(table.get("bottom_token_ids")),
            "neg_values": table.get("bottom_logits"),
        }
    )
