"""Rows of `ex_act_pattern_matching` worked out another way: from the tables and vectors alone, loop by loop.

Nothing of `saeinterp_mcp.patterns` is used. Vectors of the phrases come straight from sentence-transformers; words are
compared by a cruder stem and a short list of stop words, which is enough for the explanations of the list.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.sources.embedder_folder import find_embedder
from pipeline.validation.config import NO_EMBEDDER
from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.frozen import Frozen
from saeinterp_mcp.validation.folder import Validation
from saeinterp_mcp.validation.tables import PATTERN_MATCHING

STOP = set(
    """a above after all an and are as at back before between follows for forms from gives if in instance is it less
    marks of one part phrase strongest such text that the their to token tokens what where with without
    word""".split()  # noqa: SIM905
)
"""Words of these explanations that name nothing."""
QUOTED = re.compile(r"`([^`]+)`|\"([^\"]+)\"")
SIGNS = {"comma": ",", "underscor": "_", "newlin": "\n", "parenthesi": "()", "bracket": "()[]"}
WINDOW, CORE, TOP, ABOVE = 32, 5, 3, 95.0
ROUNDING = 1e-5
TABLE = PATTERN_MATCHING.name
VERDICTS = {(True, True): "both", (True, False): "lexical", (False, True): "semantic", (False, False): "none"}
Values = NDArray[np.float64]


class _Example(NamedTuple):
    tokens: list[str]
    at: int
    """Of the strongest token."""


class _Examples(NamedTuple):
    of_feature: dict[int, list[_Example]]
    vectors: dict[int, Values]


class Agreement(Frozen):
    """Rows of the table beside those that were worked out here."""

    n_features: int
    n_phrases: int
    n_numbers: int
    """That were compared: similarities, percentiles and rates; verdicts have to be equal."""
    largest_difference: float
    """Percentiles as shares of 1."""


class _Source(NamedTuple):
    folder: Validation
    examples: _Examples
    random: list[int]
    """The features that everything is compared with."""
    phrases: dict[str, Values] | None
    """Text to its direction; None where texts were compared by words only."""


def agreement(folder: Validation, features: Sequence[int], model: str | None = None) -> Agreement:
    """Work out the rows of some features. `model`: that of the run.

    Raises:
        AssertionError: a verdict differs, or a number by more than a rounding.
    """
    used = folder.sidecar(TABLE)["config_used"]["baseline"]
    examples = _read(folder)
    there = np.array(sorted(f for f, found in examples.of_feature.items() if found))
    n = min(len(there), used["n_random_features"])
    drawn = rng(used["seed"], "background").choice(there, n, replace=False)
    rows = [row for f in features for row in folder.of_feature(TABLE, f).iter_rows(named=True)]
    texts = sorted({phrase["phrase_text"] for row in rows for phrase in row["phrases"]})
    phrases = None if model == NO_EMBEDDER else _embedded(texts, model)
    source = _Source(folder, examples, np.sort(drawn).tolist(), phrases)
    apart = [_apart(source, row) for row in rows]
    largest = max(max(numbers) for numbers in apart)
    return Agreement(
        n_features=len(rows),
        n_phrases=sum(len(row["phrases"]) for row in rows),
        n_numbers=sum(map(len, apart)),
        largest_difference=float(f"{largest:.0e}"),
    )


def _apart(source: _Source, row: dict[str, Any]) -> list[float]:
    """How far each number of a row is from ours."""
    feature, texts = row["feature_id"], [phrase["phrase_text"] for phrase in row["phrases"]]
    random = [f for f in source.random if f != feature]
    near = _near(source, texts, [feature, *random])
    said = np.stack([_said(source.examples, text, feature, random) for text in texts])
    matches = np.zeros((len(texts), 1 + len(random)), bool)
    apart: list[float] = []
    for i, phrase in enumerate(row["phrases"]):
        by_words, by_meaning = _percentile(said[i, 0], said[i, 1:]), 0.0
        assert (phrase["lexical_percentile"] is None) == (not _terms(phrase["phrase_text"]))
        if phrase["lexical_percentile"] is not None:
            apart.append(abs(by_words - phrase["lexical_percentile"]) / 100)
        matches[i] = _matched(said[i])
        if near is not None:
            by_meaning = _percentile(near[i, 0], near[i, 1:])
            apart.append(abs(near[i, 0] - phrase["semantic_similarity"]))
            apart.append(abs(by_meaning - phrase["semantic_percentile"]) / 100)
            matches[i] |= _matched(near[i])
        expected = VERDICTS[by_words > ABOVE, by_meaning > ABOVE]
        assert phrase["match_type"] == expected, f"{phrase['phrase_text']}: {expected} by hand"
    apart += _rates(matches, row["match_rate"], row["match_percentile"], row["match_rate_by_chance"])
    for one in row["explainers"]:
        mine = [p["explainer_name"] == one["explainer_name"] for p in row["phrases"]]
        apart += _rates(matches[np.array(mine)], one["match_rate"], one["match_percentile"], None)
    assert max(apart) < ROUNDING, f"feature {feature}: numbers are {max(apart)} apart"
    return apart


def _rates(
    matches: NDArray[np.bool_], rate: float, percentile: float, by_chance: float | None
) -> list[float]:
    rates = matches.mean(axis=0)
    found = [abs(rates[0] - rate), abs(_percentile(rates[0], rates[1:]) - percentile) / 100]
    return [*found, *([] if by_chance is None else [abs(rates[1:].mean() - by_chance)])]


def _matched(values: Values) -> NDArray[np.bool_]:
    """The feature among the random ones, and each random one among the others."""
    first = _percentile(values[0], values[1:]) > ABOVE
    rest = [_percentile(values[g], np.delete(values[1:], g - 1)) > ABOVE for g in range(1, len(values))]
    return np.array([first, *rest])


def _percentile(value: float, others: Values) -> float:
    return float(100 * ((others < value).mean() + (others == value).mean() / 2))


def _read(folder: Validation) -> _Examples:
    prompts = folder.table("prompts").collect()
    tokens = dict(zip(prompts["prompt_id"].to_list(), prompts["prompt_tokens"].to_list(), strict=True))
    rows: pl.DataFrame = folder.table("activation_embeddings").collect()
    vectors = folder.vectors("activations")
    of_feature, directions = {}, {}
    for row in rows.iter_rows(named=True):
        found = []
        for prompt, position in zip(row["prompt_ids"], row["positions"], strict=True):
            whole = tokens[prompt]
            start = max(0, min(position - WINDOW // 2, len(whole) - WINDOW))
            found.append(_Example(whole[start : start + WINDOW], position - start))
        of_feature[row["feature_id"]] = found
        if vectors is not None:
            first = row["first_vector"]
            directions[row["feature_id"]] = np.asarray(vectors[first : first + len(found)], np.float64)
    return _Examples(of_feature, directions)


def _embedded(texts: Sequence[str], name: str | None) -> dict[str, Values]:
    from sentence_transformers import SentenceTransformer

    model: Any = SentenceTransformer(str(find_embedder(name).folder), device="cpu")
    vectors = [np.asarray(model.encode(text), np.float64) for text in texts]
    return {text: vector / np.linalg.norm(vector) for text, vector in zip(texts, vectors, strict=True)}


def _near(source: _Source, texts: Sequence[str], features: Sequence[int]) -> Values | None:
    """(phrases, features) mean cosine with the TOP closest windows, as float32 like the stage's."""
    if source.phrases is None:
        return None
    phrases = np.stack([source.phrases[text] for text in texts])
    windows = source.examples.vectors
    found = [np.sort(phrases @ windows[f].T, axis=1)[:, -TOP:].mean(axis=1) for f in features]
    return np.stack(found, axis=1).astype(np.float32).astype(np.float64)


def _said(examples: _Examples, text: str, feature: int, random: Sequence[int]) -> Values:
    """(1 + random,) the best rank of a term of the phrase, of the feature and of each random one."""
    best = np.full(1 + len(random), -1.0)
    for term in _terms(text):
        shares = np.array([_share(examples.of_feature[f], term) for f in (feature, *random)])
        others = shares[1:]
        ranks = [(others < share).sum() + (others == share).sum() / 2 for share in shares]
        best = np.maximum(best, ranks)
    return best


def _terms(text: str) -> list[str]:
    quoted = [one or other for one, other in QUOTED.findall(text)]
    words = [_stem(word) for word in _words(QUOTED.sub(" ", text)) if word.lower() not in STOP]
    return list(dict.fromkeys([*(f"={one}" for one in quoted), *words]))


def _share(found: Sequence[_Example], term: str) -> float:
    n = sum(_holds(one, term) for one in found)
    return n / len(found) if n >= min(2, len(found)) else 0.0


def _holds(one: _Example, term: str) -> bool:
    text = "".join(one.tokens)
    first = max(0, min(one.at - CORE // 2, len(one.tokens) - CORE))
    start = len("".join(one.tokens[:first]))
    end = start + len("".join(one.tokens[first : first + CORE]))
    while start > 0 and text[start - 1 : start + 1].isalnum():
        start -= 1
    while end < len(text) and text[end - 1 : end + 1].isalnum():
        end += 1
    core = text[start:end]
    if term.startswith("="):
        return term[1:] in core or (term.islower() and term[1:] in core.lower())
    return term in {_stem(word) for word in _words(core)} or any(sign in core for sign in SIGNS.get(term, ""))


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", text) if len(word) > 1]


def _stem(word: str) -> str:
    lower = word.lower()
    if len(lower) <= 3:
        return lower
    return (
        re.sub(r"(ings?|ed|es?|s|ly)$", "", lower) if len(lower) > 6 else re.sub(r"(ed|es?|s|ly)$", "", lower)
    )
