"""VALIDATION_STAGES: from raw files to tables, in order."""

from typing import Any

from pipeline.stage import Stage
from pipeline.validation.stages.activation_embeddings import ACTIVATION_EMBEDDINGS
from pipeline.validation.stages.activation_examples import ACTIVATION_EXAMPLES
from pipeline.validation.stages.activation_similarity import ACTIVATION_SIMILARITY
from pipeline.validation.stages.decoder_similarities import DECODER_SIMILARITIES
from pipeline.validation.stages.explanation_alignment import EXPLANATION_ALIGNMENT
from pipeline.validation.stages.explanation_embeddings import EXPLANATION_EMBEDDINGS
from pipeline.validation.stages.explanation_maps import EXPLANATION_MAPS
from pipeline.validation.stages.feature_maps import FEATURE_MAPS
from pipeline.validation.stages.features import FEATURES
from pipeline.validation.stages.interfeature_similarity import INTERFEATURE_SIMILARITY
from pipeline.validation.stages.llm_comparison import LLM_COMPARISON
from pipeline.validation.stages.pattern_matching import PATTERN_MATCHING
from pipeline.validation.stages.scores import SCORES

VALIDATION_STAGES: tuple[Stage[Any], ...] = (
    ACTIVATION_EXAMPLES,
    DECODER_SIMILARITIES,
    SCORES,
    EXPLANATION_EMBEDDINGS,
    FEATURES,
    ACTIVATION_EMBEDDINGS,
    ACTIVATION_SIMILARITY,
    INTERFEATURE_SIMILARITY,
    EXPLANATION_ALIGNMENT,
    PATTERN_MATCHING,
    FEATURE_MAPS,
    EXPLANATION_MAPS,
    LLM_COMPARISON,
)
OPTIONAL = {"features": ("decoder_similarities", "scores"), "llm_comparison": ("scores",)}
"""Stage to inputs that it does without: `inputs` then lacks them."""
