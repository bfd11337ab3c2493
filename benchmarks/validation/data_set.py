"""A data set of the size of SAE_vis' own: examples of activations, explanations, scores, decoder; topics are planted.

A feature fires on three words of its topic and, weakly, elsewhere; an explanation names these words, or, for each
fifth feature, those of another one.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from saeinterp_mcp.analysis.sampling import rng
from saeinterp_mcp.frozen import Frozen

SAE = "bench/sae"
HOOKPOINT = "layers.30"
SOURCES = {"one_e-one_s": "bench/explainer-one", "two_e-one_s": "bench/explainer-two"}
SCORER = "bench/scorer"
METHODS = ("fuzz", "detection")
OF_TOPIC = 24
"""Words of a topic."""
COMMON = 6_000
"""Words of no topic."""
OPENINGS = {
    "bench/explainer-one": "Words about",
    "bench/explainer-two": "This feature fires on mentions of",
}
SYLLABLES = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]


class Size(Frozen):
    """How much of everything."""

    n_features: PositiveInt = 16_384
    n_prompts: PositiveInt = 24_571
    n_topics: PositiveInt = 400
    prompts_each: PositiveInt = 33
    """Examples of a feature: one in seven is silent, as in the original."""
    n_tokens: PositiveInt = 127
    d_model: PositiveInt = 512
    n_scored: PositiveInt = 824
    """Features with scores, of two scorers and both explainers."""
    n_trials: PositiveInt = 100


def write_data_set(folder: Path, size: Size) -> None:
    """Write everything, and `validate.yaml` that names it."""
    folder.mkdir(parents=True)
    words = vocabulary(COMMON + size.n_topics * OF_TOPIC)
    prompts = _prompts(size)
    with (folder / "prompts.json").open("w", encoding="utf-8") as file:
        json.dump(
            [[words[token] for token in prompt] for prompt in prompts.tolist()], file, ensure_ascii=False
        )
    with (folder / "activations.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(_lines(size, prompts))
    np.save(folder / "decoder.npy", _decoder(size), allow_pickle=False)
    for source, explainer in SOURCES.items():
        _write_source(folder / source, explainer, size, words)
    (folder / "validate.yaml").write_text(_config(), encoding="utf-8")


def vocabulary(n: int) -> list[str]:
    """SentencePiece pieces, all different; one in four goes on with the word before it."""
    base = len(SYLLABLES)
    names = [
        SYLLABLES[i % base] + SYLLABLES[i // base % base] + SYLLABLES[i // base**2 % base] for i in range(n)
    ]
    return [name if i % 4 == 3 else f"▁{name}" for i, name in enumerate(names)]


def own_words(feature: int, size: Size) -> NDArray[np.int64]:
    """(3,) the words that a feature fires on, of those of its topic."""
    chosen = rng(0, "words", feature).choice(OF_TOPIC, 3, replace=False)
    return np.sort(COMMON + feature % size.n_topics * OF_TOPIC + chosen)


def _prompts(size: Size) -> NDArray[np.int64]:
    """(P, n_tokens) words; prompt p is about topic p % n_topics."""
    generator = rng(0, "prompts")
    shape = (size.n_prompts, size.n_tokens)
    common = np.minimum(generator.zipf(1.2, shape) - 1, COMMON - 1)
    topic = (np.arange(size.n_prompts) % size.n_topics)[:, None]
    of_topic = COMMON + topic * OF_TOPIC + generator.integers(0, OF_TOPIC, shape)
    return np.where(generator.random(shape) < 0.3, of_topic, common)


def _lines(size: Size, prompts: NDArray[np.int64]) -> Iterator[str]:
    """A line a feature and prompt, in the form of SAE_vis."""
    for feature in range(size.n_features):
        generator = rng(0, "activations", feature)
        of_topic = np.arange(feature % size.n_topics, size.n_prompts, size.n_topics)
        n_silent = size.prompts_each // 7 + 1
        firing = generator.choice(of_topic, min(len(of_topic), size.prompts_each - n_silent), replace=False)
        others = np.setdiff1d(generator.integers(0, size.n_prompts, n_silent), firing)
        hits = np.isin(prompts[firing], own_words(feature, size))
        weak = generator.random(hits.shape) < 0.08
        values = np.where(
            hits, generator.lognormal(3, 0.5, hits.shape), generator.uniform(0.5, 4, hits.shape)
        )
        values = np.round(values, 3)
        for row, prompt in enumerate(firing.tolist()):
            at = np.flatnonzero(hits[row] | weak[row])
            pairs = ",".join(f"[{p},{v}]" for p, v in zip(at.tolist(), values[row, at].tolist(), strict=True))
            yield f'{{"index":"{feature}","dataSetPromptId":{prompt},"sparseValues":[{pairs}]}}\n'
        for prompt in others.tolist():
            yield f'{{"index":"{feature}","dataSetPromptId":{prompt},"sparseValues":[]}}\n'


def _decoder(size: Size) -> NDArray[np.float32]:
    generator = rng(0, "decoder")
    topics = generator.normal(size=(size.n_topics, size.d_model))
    own = generator.normal(size=(size.n_features, size.d_model))
    return (0.6 * topics[np.arange(size.n_features) % size.n_topics] + own).astype(np.float32)


def _write_source(folder: Path, explainer: str, size: Size, words: list[str]) -> None:
    (folder / "explanations").mkdir(parents=True)
    about = {"sparse_model": SAE, "hookpoints": [HOOKPOINT], "explainer_model": explainer}
    (folder / "run_config.json").write_text(json.dumps(about), encoding="utf-8")
    for feature in range(size.n_features):
        text = explanation(feature, explainer, size, words)
        path = folder / "explanations" / f"{HOOKPOINT}_latent{feature}.txt"
        path.write_text(json.dumps(text), encoding="utf-8")
    for method in METHODS:
        (folder / "scores" / method).mkdir(parents=True)
        for feature in range(min(size.n_scored, size.n_features)):
            path = folder / "scores" / method / f"{HOOKPOINT}_latent{feature}.txt"
            path.write_text(json.dumps(_trials(feature, method, explainer, size)), encoding="utf-8")


def explanation(feature: int, explainer: str, size: Size, words: list[str]) -> str:
    """Nine phrases, as in the original; of every fifth feature about another one."""
    generator = rng(0, "explanation", feature, explainer)
    meant = int(generator.integers(size.n_features)) if feature % 5 == 4 else feature
    own = [words[word].lstrip("▁") for word in own_words(meant, size).tolist()]
    first = COMMON + meant % size.n_topics * OF_TOPIC
    beside = [words[first + i].lstrip("▁") for i in generator.choice(OF_TOPIC, 4, replace=False).tolist()]
    common = [words[i].lstrip("▁") for i in generator.choice(COMMON, 2, replace=False).tolist()]
    return (
        f'{OPENINGS[explainer]} {own[0]}, the word "{own[1]}", {own[2]} before {beside[0]}, {beside[1]} and '
        f"{beside[2]}, discussions of {beside[3]} or {common[0]}, and sometimes {common[1]} at the end of a list."
    )


def _trials(feature: int, method: str, explainer: str, size: Size) -> list[dict[str, Any]]:
    generator = rng(0, "trials", feature, method, explainer)
    skill = generator.uniform(0.4, 0.95)
    fires = generator.random(size.n_trials) < 0.5
    right = generator.random(size.n_trials) < skill
    tokens = [f" t{i}" for i in range(32)]
    return [
        {
            "str_tokens": tokens,
            "activations": [0.0] * 32,
            "distance": i % 10 if on else -1.0,
            "activating": on,
            "prediction": on == ok,
            "probability": None,
            "correct": ok,
        }
        for i, (on, ok) in enumerate(zip(fires.tolist(), right.tolist(), strict=True))
    ]


def _config() -> str:
    sources = "".join(
        f"  - {{name: {name}, path: {name}, llm_explainer: {explainer}, llm_scorer: {SCORER}}}\n"
        for name, explainer in SOURCES.items()
    )
    return (
        f"name: bench\nsae_id: {SAE}\nout: tables\ndata_sources:\n{sources}"
        "activation_examples: {activations_input_path: activations.jsonl, prompts_input_path: prompts.json}\n"
        "feature_similarities: {weights: decoder.npy}\n"
    )
