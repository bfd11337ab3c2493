"""STAGES: every step of a build, in order. Written out, so that it can be read and nothing goes missing."""

from typing import Any

from pipeline.stage import Stage
from pipeline.stages.bundle_to_store import stages_from_bundle
from pipeline.stages.check_load import CHECK_LOAD
from pipeline.stages.collect_activations import COLLECT_ACTIVATIONS
from pipeline.stages.measure_outputs import MEASURE_OUTPUTS
from pipeline.stages.tokenize_dataset import TOKENIZE_DATASET
from pipeline.stages.write_bundle import WRITE_BUNDLE

STAGES: tuple[Stage[Any], ...] = (
    # model + SAE + dataset to a bundle
    TOKENIZE_DATASET,
    CHECK_LOAD,
    COLLECT_ACTIVATIONS,
    MEASURE_OUTPUTS,
    WRITE_BUNDLE,
    # bundle to store, shared with `import bundle`: write_postings, trace_outputs, summarise_features,
    # sum_labels, choose_examples, find_neighbours, publish_store
    *stages_from_bundle(after="write_bundle"),
)
