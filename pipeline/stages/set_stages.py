"""SET_STAGES: every step of a build over sets, in order."""

from dataclasses import replace
from typing import Any

from pipeline.stage import Stage
from pipeline.stages.bundle_to_store import stages_from_bundle
from pipeline.stages.capture_vectors import CAPTURE_VECTORS
from pipeline.stages.check_vectors import CHECK_VECTORS
from pipeline.stages.draw_samples import DRAW_SAMPLES
from pipeline.stages.encode_vectors import ENCODE_VECTORS
from pipeline.stages.measure_read_out import MEASURE_READ_OUT
from pipeline.stages.train_sae import TRAIN_SAE
from pipeline.stages.write_set_bundle import WRITE_SET_BUNDLE


def set_stages(trains: bool) -> tuple[Stage[Any], ...]:
    """The stages from a dataset of sets to a store.

    Args:
        trains: the SAE is trained on the run's own vectors; else it is there.
    """
    reading: tuple[Stage[Any], ...] = (CHECK_VECTORS, ENCODE_VECTORS, MEASURE_READ_OUT, WRITE_SET_BUNDLE)
    if trains:
        reading = tuple(replace(stage, inputs=(*stage.inputs, TRAIN_SAE.name)) for stage in reading)
    return (
        # sets and an adapter to vectors
        DRAW_SAMPLES,
        CAPTURE_VECTORS,
        *((TRAIN_SAE,) if trains else ()),
        # vectors and an SAE to a bundle
        *reading,
        # bundle to store, shared with `import bundle`
        *stages_from_bundle(after="write_set_bundle"),
    )


SET_STAGES = set_stages(trains=True)
"""With all there are."""
