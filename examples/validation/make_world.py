"""A tiny world with its files, whose truth is known: feature i fires on the word WORDS[i].

60 features, 40 prompts in SentencePiece pieces. Two explainers: `alpha` says what is true; `beta` half of it (one
phrase is right, the other names another feature's word), some unparsed, some missing. Scores are by hand, see the
functions that write them.

`python examples/validation/make_world.py FOLDER` writes it, with a config whose tables go with the store FOLDER-store.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml

N_FEATURES, N_PROMPTS, WIDTH = 60, 40, 16
HOOKPOINT = "layers.5"
SAE_ID = "planted/sae/layers.5"
"""As run_config.json spells it; tables hold planted--sae--layers.5."""
SOURCES = {"alpha_e-judge_s": "lab/alpha-7b", "beta_e-judge_s": "lab/beta-7b"}
SCORER = "lab/judge-70b"
UNPARSED = "Explanation could not be parsed."

ROOTS = (
    "river", "castle", "violin", "copper", "winter", "garden", "engine", "market", "falcon", "harbor",
    "lantern", "marble", "needle", "orchid", "pepper", "quarry", "ribbon", "saddle", "temple", "umpire",
    "velvet", "walnut", "yogurt", "zipper", "anchor", "basket", "candle", "desert", "emblem", "forest",
)  # fmt: skip
WORDS = (*ROOTS, *(f"{root}s" for root in ROOTS))
"""Feature to its word; features i and i + 30 fire on singular and plural, and have decoder directions alike."""
TWO_PIECES = {5: ("▁gar", "den"), 35: ("▁gar", "dens")}
"""Words that are two tokens; the feature fires on the second, and half as strongly on the first."""
FILLERS = ("▁the", "▁of", "▁a", "▁and", "▁was", "▁in", "▁old", "▁new", "▁by", "▁with")

TIED, FEW, ONCE, DEAD = 56, 57, 58, 59
"""Features that fire with one strength everywhere, in three prompts only, in one only, in none."""
NO_DIRECTION = 55
"""A feature whose decoder row is zero."""


def write_world(
    folder: Path, embedder: str | None = "none", store: Path | None = None, **sections: Any
) -> Path:
    """Write all files into `folder`, and the config of a run over them; its path.

    Args:
        folder: made here; the run publishes in `folder/out` and works in `folder/work`.
        embedder: of the config: `none`, or None for the default model.
        store: one that the tables go with.
        sections: of the config, merged over those written here, key by key; with `data_sources` no folders of
            explanations are written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prompts = make_prompts()
    write_activations(folder, prompts)
    np.save(folder / "decoder.npy", make_decoder(), allow_pickle=False)
    if "data_sources" not in sections:
        for name, model in SOURCES.items():
            write_source(folder / name, model)
    config: dict[str, Any] = {
        "name": "planted",
        "sae_id": SAE_ID,
        "out": "out",
        "work": "work",
        "data_sources": [{"name": name, "path": name, "llm_scorer": SCORER} for name in SOURCES],
        "activation_examples": {
            "activations_input_path": "activations.jsonl",
            "prompts_input_path": "prompts.json",
        },
        "feature_similarities": {"weights": "decoder.npy", "top_k": 5},
        "maps": {"n_clusters": [2, 4], "n_stability": 3},
        "llm_comparison": {"n_permutations": 99},
        "pattern_matching": {"n_random_features": 30},
        "embedder": {"model": embedder},
    }
    if store is not None:
        config["store"] = str(store)
    for key, value in sections.items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    path = folder / "validate.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def pieces(feature: int) -> tuple[str, ...]:
    """The tokens of a feature's word."""
    return TWO_PIECES.get(feature, (f"▁{WORDS[feature]}",))


def fires_in(feature: int) -> list[int]:
    """Prompts that hold the feature's word: ten, but for the odd ones."""
    n = {FEW: 3, ONCE: 1, DEAD: 0}.get(feature, 10)
    step = (3, 7, 9, 11, 13, 17)[feature // 10]
    return sorted((feature * 7 + step * i) % N_PROMPTS for i in range(n))


def strength(feature: int, prompt: int) -> float:
    """The largest activation of a feature in a prompt that holds its word: different in each, but for TIED."""
    return 4.0 if feature == TIED else 1.0 + (prompt * 11 + feature) % N_PROMPTS / 4


def make_prompts() -> list[list[str]]:
    """Prompt by prompt, its tokens: each word that belongs there, with three fillers before it."""
    prompts = []
    for prompt in range(N_PROMPTS):
        rng = np.random.default_rng(prompt)
        tokens = ["<bos>"]
        for feature in range(N_FEATURES):
            if prompt in fires_in(feature):
                tokens += [FILLERS[i] for i in rng.integers(len(FILLERS), size=3)]
                tokens += pieces(feature)
        prompts.append([*tokens, "▁.", "▁end"])
    return prompts


def pairs_of(feature: int, prompt: int, tokens: list[str]) -> list[list[float]]:
    """[position, activation] of a feature, by position; the filler before its word fires a tenth as strongly."""
    word, value = pieces(feature), strength(feature, prompt)
    at = next(i for i in range(len(tokens)) if tuple(tokens[i : i + len(word)]) == word)
    last = at + len(word) - 1
    pairs = [[at - 1, value / 10], [last, value]]
    return sorted([*pairs, [at, value / 2]] if len(word) > 1 else pairs)


def write_activations(folder: Path, prompts: list[list[str]]) -> None:
    """activations.jsonl (rows without activations among them: two a feature) and prompts.json."""
    lines = []
    for feature in range(N_FEATURES):
        there = fires_in(feature)
        silent = [prompt for prompt in range(N_PROMPTS) if prompt not in there][:2]
        for prompt in sorted([*there, *silent]):
            values = pairs_of(feature, prompt, prompts[prompt]) if prompt in there else []
            lines.append({"index": str(feature), "dataSetPromptId": prompt, "sparseValues": values})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "activations.jsonl").write_text(text, encoding="utf-8")
    (folder / "prompts.json").write_text(json.dumps(prompts, ensure_ascii=False), encoding="utf-8")


def make_decoder() -> "np.ndarray[Any, np.dtype[np.float32]]":
    """(60, 16) float32: random directions, those of features i and i + 30 nearly one; row NO_DIRECTION is zero."""
    rng = np.random.default_rng(1)
    base = rng.normal(size=(N_FEATURES // 2, WIDTH))
    near = base + 0.1 * rng.normal(size=base.shape)
    decoder = np.concatenate([base, near]).astype(np.float32)
    decoder[NO_DIRECTION] = 0
    return decoder


def explanation(source: str, feature: int) -> str | None:
    """What an explainer says of a feature; None: it has no file."""
    word = WORDS[feature]
    if source.startswith("alpha"):
        return f'The word "{word}" in running text'
    if feature % 10 == 9:
        return None
    if feature % 10 == 7:
        return UNPARSED
    return f'The word "{word}", or names of {WORDS[(feature + 13) % N_FEATURES]}'


def write_source(folder: Path, model: str) -> None:
    """A delphi run: run_config.json, explanations, and four scorers' files."""
    sides = {"explanations": folder / "explanations"}
    sides |= {name: folder / "scores" / name for name in ("fuzz", "detection", "embedding", "simulation")}
    for path in sides.values():
        path.mkdir(parents=True, exist_ok=True)
    run = {
        "sparse_model": "planted/sae",
        "hookpoints": [HOOKPOINT],
        "explainer_model": model,
        "scorers": list(sides)[1:],
        "seed": 22,
    }
    (folder / "run_config.json").write_text(json.dumps(run), encoding="utf-8")
    for feature in range(N_FEATURES):
        text = explanation(folder.name, feature)
        if text is None:
            continue
        name = f"{HOOKPOINT}_latent{feature}.txt"
        files = {
            "explanations": text,
            "fuzz": fuzz_items(folder.name, feature),
            "detection": fuzz_items(folder.name, feature, n=10),
            "embedding": embedding_items(feature),
            "simulation": simulation_groups(feature),
        }
        for side, content in files.items():
            (sides[side] / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def fuzz_items(source: str, feature: int, n: int = 5) -> list[dict[str, Any]]:
    """`n` activating and `n` silent texts. alpha misses the last feature % 5 activating ones, beta calls as many silent
    ones activating; where feature % 10 is 3, alpha's first five answers could not be read. An unparsed explanation has
    every other answer right.
    """
    alpha, items = source.startswith("alpha"), []
    for i in range(2 * n):
        activating = i < n
        wrong = n - feature % 5 <= i < n if alpha else n <= i < n + feature % 5
        if explanation(source, feature) == UNPARSED:
            wrong = i % 2 == 1
        prediction: bool | None = activating != wrong
        if alpha and feature % 10 == 3 and i < 5:
            prediction = None
        items.append(
            {
                "str_tokens": ["▁a", f"▁{WORDS[feature]}"],
                "activations": [0.0, 2.0] if activating else [0.0, 0.0],
                "distance": float(i % 5) if activating else -1.0,
                "activating": activating,
                "prediction": prediction,
                "probability": None,
                "correct": None if prediction is None else prediction == activating,
            }
        )
    return items


def embedding_items(feature: int) -> list[dict[str, Any]]:
    """Five activating and five silent texts: all told apart (AUC 1) for even features, all alike (0.5) for odd ones."""
    return [
        {
            "text": f"text {i}",
            "distance": float(i) if i < 5 else -1.0,
            "similarity": (0.5 + i / 100 if i < 5 else 0.1 + i / 100) if feature % 2 == 0 else 0.3,
        }
        for i in range(10)
    ]


def simulation_groups(feature: int) -> list[dict[str, Any]]:
    """Overall (distance 0) feature % 10 / 10, "nan" where feature % 10 is 4; quantiles (1 and 2) 0.2 and 0.8."""
    overall: float | str = "nan" if feature % 10 == 4 else feature % 10 / 10
    groups = []
    for distance, score in ((0, overall), (1, 0.2), (2, 0.8)):
        one = {
            "distance": distance,
            "simulation": {
                "tokens": ["▁a", f"▁{WORDS[feature]}"],
                "expected_activations": [0.0, 5.0],
                "activation_scale": 1.0,
                "distribution_values": [],
                "distribution_probabilities": [],
            },
            "true_activations": [0.0, 2.0],
            "ev_correlation_score": score,
            "rsquared_score": 0,
            "absolute_dev_explained_score": 0,
        }
        groups.append(
            {
                "distance": distance,
                "scored_sequence_simulations": [one],
                "ev_correlation_score": score,
                "rsquared_score": 0,
                "absolute_dev_explained_score": 0,
            }
        )
    return groups


def main(folder: Path) -> None:
    """Write the world for a reader of docs/from-the-data-layer.md."""
    config = write_world(folder, store=Path("..", f"{folder.name}-store"), out=None)
    print(f"{config}: {N_FEATURES} features, {N_PROMPTS} prompts, {len(SOURCES)} explainers")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
