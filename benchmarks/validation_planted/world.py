"""A planted world: half of its features fire on one word, half of them in texts of one topic."""

import json
from pathlib import Path
from typing import NamedTuple

from benchmarks.validation_planted.explanations import GIBBERISH, Kind, Told, half_of
from benchmarks.validation_planted.words import FILLERS, NOUNS, TOPICS
from saeinterp_mcp.analysis.sampling import rng

FIRES_IN = 12
"""Prompts in which a feature fires."""
TRUE_IN = (9, 6, 3)
"""Of these, those in which it fires on what is planted, feature by feature in turn; in the rest on something else."""
N_NOUNS_EACH, N_TOPIC_WORDS = 6, 8
"""Planted nouns and words of its topic in each prompt; before each stands a filler or two."""
GENERIC = "words of English, running text, nouns in a sentence"


class Size(NamedTuple):
    """How much is planted."""

    n_words: int = 150
    """Features that fire on a noun."""
    n_topics: int = 30
    n_each: int = 5
    """Features of each topic."""
    n_prompts: int = 600

    @property
    def n_features(self) -> int:
        """All."""
        return self.n_words + self.n_topics * self.n_each


class World(NamedTuple):
    """Prompts, and where each feature fires."""

    prompts: list[list[str]]
    pairs: list[list[tuple[int, int, float]]]
    """Feature by feature: (prompt, position, activation), at most one a prompt."""


def make_world(size: Size, seed: int) -> World:
    """Draw it."""
    prompts = [_prompt(size, i, seed) for i in range(size.n_prompts)]
    return World(prompts, [_pairs(size, feature, prompts, seed) for feature in range(size.n_features)])


def _prompt(size: Size, number: int, seed: int) -> list[str]:
    draw = rng(seed, "prompt", number)
    topic = TOPICS[number % size.n_topics]
    said = [
        *(NOUNS[i] for i in draw.choice(size.n_words, N_NOUNS_EACH, replace=False)),
        *(topic.words[i] for i in draw.choice(len(topic.words), N_TOPIC_WORDS, replace=False)),
    ]
    tokens: list[str] = []
    for i in draw.permutation(len(said)):
        tokens += [FILLERS[j] for j in draw.integers(len(FILLERS), size=1 + int(draw.integers(2)))]
        tokens.append(said[i])
    return [f"▁{token}" for token in tokens]


def _pairs(size: Size, feature: int, prompts: list[list[str]], seed: int) -> list[tuple[int, int, float]]:
    """Mostly on its noun, or on any word of its topic; else on any token of any prompt."""
    draw = rng(seed, "feature", feature)
    wanted = _fires_on(size, feature)
    holding = [i for i, tokens in enumerate(prompts) if wanted & set(tokens)]
    n_true = TRUE_IN[feature % len(TRUE_IN)]
    true = sorted(draw.choice(holding, n_true, replace=False).tolist())
    rest = sorted(set(range(len(prompts))) - set(holding))
    noise = sorted(draw.choice(rest, FIRES_IN - n_true, replace=False).tolist())
    found = []
    for prompt in sorted([*true, *noise]):
        tokens = prompts[prompt]
        places = [i for i, token in enumerate(tokens) if token in wanted] or list(range(len(tokens)))
        found.append((prompt, int(draw.choice(places)), round(float(draw.uniform(1, 10)), 3)))
    return found


def _fires_on(size: Size, feature: int) -> set[str]:
    if feature < size.n_words:
        return {f"▁{NOUNS[feature]}"}
    return {f"▁{word}" for word in TOPICS[topic_of(size, feature)].words}


def topic_of(size: Size, feature: int) -> int:
    """Of a feature that fires in a topic."""
    return (feature - size.n_words) // size.n_each


def true_of(size: Size, feature: int) -> str:
    """What is planted: a noun by its name, a topic in words that no prompt holds."""
    if feature < size.n_words:
        return f'the word "{NOUNS[feature]}", mentions of a {NOUNS[feature]}'
    return ", ".join(TOPICS[topic_of(size, feature)].phrases)


def other_than(size: Size, feature: int) -> int:
    """The feature half of its own kind further on: another noun, a topic that has nothing to do with it."""
    first, n = (0, size.n_words) if feature < size.n_words else (size.n_words, size.n_topics * size.n_each)
    return first + (feature - first + n // 2) % n


def world_explanations(size: Size) -> list[Told]:
    """Every kind of every feature."""
    told: list[Told] = []
    for feature in range(size.n_features):
        true, other = true_of(size, feature), true_of(size, other_than(size, feature))
        kinds: dict[Kind, str] = {
            "true": true,
            "half": half_of(true, other),
            "other": other,
            "generic": GENERIC,
            "gibberish": GIBBERISH[feature % len(GIBBERISH)],
        }
        part = f"{'a word' if feature < size.n_words else 'a topic'} in {TRUE_IN[feature % len(TRUE_IN)]}"
        told += [Told(feature, kind, text, part, true) for kind, text in kinds.items()]
    return told


def write_world(folder: Path, world: World) -> None:
    """`activations.jsonl` and `prompts.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(
            {"index": str(feature), "dataSetPromptId": prompt, "sparseValues": [[position, activation]]}
        )
        for feature, pairs in enumerate(world.pairs)
        for prompt, position, activation in pairs
    ]
    (folder / "activations.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "prompts.json").write_text(json.dumps(world.prompts, ensure_ascii=False), encoding="utf-8")
