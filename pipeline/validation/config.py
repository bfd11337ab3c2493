"""What `saeinterp-pipeline validate` is told: where explanations, scores and activations are, and a section a stage.

Sections and keys are those of SAE_vis' configs where it had one; `compat: true` computes as it did.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from pipeline.config import Execution
from pipeline.validation.decoder_weights import n_features_of
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.frozen import Frozen, FrozenFile
from saeinterp_mcp.patterns.records import CORE, WIDTH
from saeinterp_mcp.store.manifest import read_manifest
from saeinterp_mcp.validation.folder import folder_beside
from saeinterp_mcp.validation.names import sae_id

BadFiles = Literal["skip", "stop"]
NO_EMBEDDER = "none"


class DataSource(Frozen):
    """A folder of explanations and scores: a delphi run, or one that only has `explanations/` and `scores/`."""

    name: str = Field(pattern=r"^[\w.-]{1,200}$")
    """Also the `data_source` of its rows, `llama_e-llama_s` for example."""
    path: Path = Field(exclude=True)
    llm_explainer: str | None = None
    """The model that explained; default what `run_config.json` says."""
    llm_scorer: str | None = None
    """The model that scored; default the same."""
    hookpoint: str | None = None
    """Which, where the folder holds several."""


class ActivationExamplesConfig(Frozen):
    """Where examples of activations come from: JSON lines, a table made before, or the store."""

    activations_input_path: Path | None = Field(default=None, exclude=True)
    """`activations.jsonl`: {"index": "12", "dataSetPromptId": 3, "sparseValues": [[position, activation], ...]}."""
    prompts_input_path: Path | None = Field(default=None, exclude=True)
    """`prompts.json`: a list of prompts, each a list of token strings."""
    given: Path | None = Field(default=None, exclude=True)
    """An `activation_examples.parquet` to use as it is."""
    examples_per_feature: PositiveInt = 33
    """Samples taken of each feature where a store is the source: spread over its activations, explain split only."""
    bad_files: BadFiles = "stop"
    """Whether a bad line ends the import or is counted and passed over."""


class FeatureSimilaritiesConfig(Frozen):
    """Nearest features by decoder direction: of weights, a file made before, or the store."""

    weights: Path | None = Field(default=None, exclude=True)
    """`params.npz` or `.safetensors` with W_dec (or decoder.weight), or .npy, (n_features, d_model)."""
    given: Path | None = Field(default=None, exclude=True)
    """A `feature_similarities.json` to use as it is."""
    top_k: PositiveInt = 10
    """Neighbours kept of each feature."""


class ScoresConfig(Frozen):
    """How scorers' results become numbers."""

    scoring_methods: tuple[str, ...] = (
        "fuzz",
        "detection",
        "simulation",
        "embedding",
        "surprisal",
        "intruder",
    )
    """Which scorers' results are read."""
    given: tuple[Path, ...] = Field(default=(), exclude=True)
    """`scores.json` files made before, of sources that have no folder."""
    bad_files: BadFiles = "skip"
    """Whether a bad file ends the run or is told and passed over."""


class ExplanationEmbeddingsConfig(Frozen):
    """Which explanations, and how examples were chosen for their explainers."""

    explanation_method: str = "quantiles"
    """How examples for the explainers were chosen; a column of the tables."""
    runaway_characters: PositiveInt = 2_000
    """Longer ones did not end; they are kept apart and never averaged."""
    labels: bool = True
    """Whether labels in use beside the store are explanations too (explainer: their author)."""
    given: Path | None = Field(default=None, exclude=True)
    """An `explanation_embeddings.parquet` to use as it is."""
    bad_files: BadFiles = "skip"
    """Whether a bad file ends the run or is told and passed over."""


class ActivationEmbeddingsConfig(Frozen):
    """Which examples stand for a feature."""

    num_quantiles: PositiveInt = 4
    """Bins by rank of an example's strongest activation; the same in all three sections."""
    examples_per_quantile: PositiveInt = 5
    """Examples of each bin."""
    token_window_size: PositiveInt = WIDTH
    """Tokens around the strongest one that are embedded."""


class ActivationSimilarityConfig(Frozen):
    """How alike a feature's examples are."""

    num_quantiles: PositiveInt = 4
    """As in `activation_embeddings`."""
    examples_per_quantile: PositiveInt = 2
    """At most those of `activation_embeddings`; the first ones of each quantile."""
    ngram_window_size: PositiveInt = CORE
    """Tokens around the strongest one in which words and n-grams are looked for."""
    ngram_sizes: tuple[PositiveInt, PositiveInt, PositiveInt] = (2, 3, 4)
    """Letters of the common n-grams that are listed; the Jaccards are always of 2, 3 and 4."""
    min_ngram_occurrences: PositiveInt = 2
    """Windows that must share an n-gram for it to be a common one."""


class InterfeatureSimilarityConfig(Frozen):
    """How alike the examples of neighbouring features are."""

    num_decoder_similar_features: PositiveInt = 4
    """Neighbours that each feature is compared with."""
    num_quantiles: PositiveInt = 4
    """As in `activation_embeddings`."""
    examples_per_quantile: PositiveInt = 1
    """At most those of `activation_embeddings`; the first ones of each quantile."""


class ExplanationAlignmentConfig(Frozen):
    """What explainers agree on."""

    similarity_threshold: float = Field(default=0.7, ge=-1, le=1)
    """Cosine from which two phrases say the same."""
    chunk_method: Literal["phrase", "sentence"] = "phrase"
    """What explanations are cut into."""
    min_aligned_explainers: PositiveInt = 2
    """Explainers that must share a phrase."""


class PatternMatchingConfig(Frozen):
    """When an explanation describes what activates a feature."""

    n_random_features: int = Field(default=200, ge=20)
    """Features whose examples a similarity is compared with."""
    percentile: float = Field(default=95, ge=50, lt=100)
    """A similarity above this share of random ones counts as one."""
    semantic_consistency_threshold: float = 0.3
    """Only with `compat`."""
    jaccard_consistency_threshold: float = 0.3
    """Only with `compat`."""
    ngram_phrase_similarity_threshold: float = 0.5
    """Only with `compat`."""


class MapsConfig(Frozen):
    """Pictures and clusters of features and explanations."""

    n_neighbors: PositiveInt = 15
    """Neighbours of UMAP: more show the whole, fewer the detail."""
    min_dist: NonNegativeFloat = 0.1
    """How close points may lie on the map."""
    n_clusters: tuple[PositiveInt, ...] = (10, 30, 90)
    """Numbers of clusters; those over half the points are left out."""
    n_stability: PositiveInt = 10
    """Subsamples of four fifths that a clustering is repeated on."""
    max_points: PositiveInt | None = None
    """Only the first so many features are mapped; default all."""


class LlmComparisonConfig(Frozen):
    """How far explainers and scorers agree."""

    n_permutations: PositiveInt = 999
    """Shuffles that an RV coefficient is compared with."""


class EmbedderConfig(Frozen):
    """What gives texts their vectors."""

    model: str | None = Field(default=None, exclude=True)
    """A folder with a sentence-transformers model or a name in this machine's cache; null is all-MiniLM-L6-v2,
    which comes with the `pipeline` extra; `none` compares by words only. Fingerprints hold the model's files, not its
    name."""


class ValidationRun(FrozenFile):
    """A whole run, read from a YAML file; relative paths are read from its folder."""

    name: str = Field(pattern=r"^[\w.-]{1,200}$")
    """Of the run; stands in the manifest."""
    sae_id: Annotated[str, AfterValidator(sae_id)]
    """In any spelling; tables hold that of `validation.names.sae_id`."""
    store: Path | None = Field(default=None, exclude=True)
    """The store that the tables go with, whose samples, decoder and labels are used where nothing else is named."""
    out: Path | None = Field(default=None, exclude=True)
    """Folder to publish in; default `STORE.validation`, where the server looks."""
    work: Path | None = Field(default=None, exclude=True)
    """Folder of the artifacts of stages and of the cache of vectors; default `OUT.work`. Kept, so that the next run
    does only what changed."""
    data_sources: tuple[DataSource, ...] = ()
    """Folders of explanations and scores: `name`, `path`, and where `run_config.json` does not say them,
    `llm_explainer`, `llm_scorer`, `hookpoint`."""
    activation_examples: ActivationExamplesConfig = ActivationExamplesConfig()
    feature_similarities: FeatureSimilaritiesConfig = FeatureSimilaritiesConfig()
    scores: ScoresConfig = ScoresConfig()
    explanation_embeddings: ExplanationEmbeddingsConfig = ExplanationEmbeddingsConfig()
    activation_embeddings: ActivationEmbeddingsConfig = ActivationEmbeddingsConfig()
    activation_similarity: ActivationSimilarityConfig = ActivationSimilarityConfig()
    interfeature_similarity: InterfeatureSimilarityConfig = InterfeatureSimilarityConfig()
    explanation_alignment: ExplanationAlignmentConfig = ExplanationAlignmentConfig()
    pattern_matching: PatternMatchingConfig = PatternMatchingConfig()
    maps: MapsConfig = MapsConfig()
    llm_comparison: LlmComparisonConfig = LlmComparisonConfig()
    embedder: EmbedderConfig = EmbedderConfig()
    compat: bool = False
    """Compute what SAE_vis computed, its errors too, to compare with it."""
    seed: NonNegativeInt = 0
    """Of every draw."""
    execution: Execution = Execution()
    """`workers`, as for builds."""

    @model_validator(mode="after")
    def _nested(self) -> "ValidationRun":
        names = [source.name for source in self.data_sources]
        if len(set(names)) < len(names):
            raise ValueError("two data_sources have one name")
        chosen = self.activation_embeddings
        for name, part in (
            ("activation_similarity", self.activation_similarity),
            ("interfeature_similarity", self.interfeature_similarity),
        ):
            if part.examples_per_quantile > chosen.examples_per_quantile:
                raise ValueError(f"{name}.examples_per_quantile is more than activation_embeddings has")
            if part.num_quantiles != chosen.num_quantiles:
                raise ValueError(f"{name}.num_quantiles is not that of activation_embeddings")
        return self

    @property
    def n_features(self) -> int | None:
        """Of the SAE: what the store says, else the decoder's weights; None where neither is named.

        Raises:
            BadInput: the weights cannot be read.
            BadStore: the store is damaged.
        """
        if self.store is not None:
            return read_manifest(self.store).n_features
        weights = self.feature_similarities.weights
        return None if weights is None else n_features_of(weights)

    @classmethod
    def load(cls, path: Path) -> "ValidationRun":
        """Read a config and make its paths absolute.

        Raises:
            BadInput: the file is missing, is not YAML, does not fit, or names no place to publish in.
        """
        run = cls.from_yaml(path)
        base = path.resolve().parent
        store = None if run.store is None else base / run.store
        if store is None and run.out is None:
            raise BadInput(
                f"{path}: name the store that the tables go with (store), or a folder for them (out)"
            )
        out = base / run.out if run.out is not None else folder_beside(store) if store is not None else base
        update: dict[str, object] = {
            "store": store,
            "out": out,
            "work": base / run.work if run.work is not None else out.with_name(out.name + ".work"),
            "data_sources": tuple(
                source.model_copy(update={"path": base / source.path}) for source in run.data_sources
            ),
        }
        model = run.embedder.model
        if model is not None and model != NO_EMBEDDER and (base / model).is_dir():
            update["embedder"] = EmbedderConfig(model=str(base / model))
        for name in ("activation_examples", "feature_similarities", "scores", "explanation_embeddings"):
            update[name] = _absolute(getattr(run, name), base)
        return run.model_copy(update=update)


def _absolute(section: Frozen, base: Path) -> Frozen:
    """The section with its paths read from `base`."""
    paths = {
        name: tuple(base / one for one in value) if isinstance(value, tuple) else base / value
        for name in type(section).model_fields
        if isinstance(value := getattr(section, name), Path)
        or (isinstance(value, tuple) and value and isinstance(value[0], Path))
    }
    return section.model_copy(update=paths)
