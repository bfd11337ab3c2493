"""What each feature's decoder direction does to the logits, and whether ablating features in the model
agrees.

The artifact holds `decoder.npy` (n_features, d_model) f32, `unembedding.npy` (d_model, n_outputs) f32 with
the final norm folded in, `output_tokens.json`, and `output_check.json`. `decoder @ unembedding` is the direct
effect of each feature on each output, up to the positive scale of the position (1 / sigma of the final norm):
it ranks tokens, it is not in logits. A softcap of the logits, where a model has one, is left out as well.
"""

from collections.abc import Mapping
from pathlib import Path

from pipeline.checks import Check, describe, enforce, rounded
from pipeline.config import ChecksConfig, Execution, OutputsConfig
from pipeline.fingerprint import located_files, write_whole
from pipeline.source_config import ModelConfig, SaeConfig
from pipeline.stage import Progress, Stage, Summary
from pipeline.tokenisation import TokenisedSamples
from saeinterp_mcp.fingerprint import canonical_json
from saeinterp_mcp.frozen import Frozen

OUTPUT_CHECK = "direct_effect"


class MeasureOutputsConfig(Frozen):
    """The sections that decide what is measured."""

    model: ModelConfig
    sae: SaeConfig
    outputs: OutputsConfig
    checks: ChecksConfig


def external(config: MeasureOutputsConfig) -> dict[str, Path]:
    """The model and the SAE."""
    return located_files(model=config.model, sae=config.sae)


def run(
    config: MeasureOutputsConfig,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    """Write decoder and unembedding, then compare the direct effects with ablations."""
    from pipeline.ablation import ablate_features
    from pipeline.outputs import folded_unembedding, save_array
    from pipeline.sources.model import load_model
    from pipeline.sources.saelens_format import load_sae

    samples = TokenisedSamples(inputs["tokenize_dataset"])
    model = load_model(config.model, execution)
    sae = load_sae(config.sae, model.device)
    unembedding = folded_unembedding(model)
    save_array(out / "decoder.npy", sae.W_dec)
    save_array(out / "unembedding.npy", unembedding)
    strings = samples.token_strings[: model.n_outputs]
    # A model may have more outputs than its tokenizer has tokens (rows added to round up the size).
    strings += [f"<unused {index}>" for index in range(len(strings), model.n_outputs)]
    write_whole(out / "output_tokens.json", canonical_json(strings))

    result = ablate_features(model, sae, unembedding, samples, config.outputs, progress)
    check = judge(result.median, result.control_median, len(result.features), config.outputs)
    [check] = enforce([check], config.checks.allow)
    report = {
        **result.model_dump(mode="json"),
        "median": result.median,
        "control_median": result.control_median,
        "check": check.model_dump(mode="json"),
    }
    write_whole(out / "output_check.json", canonical_json(report))
    return Summary(n_in=sae.n_features, n_kept=sae.n_features, notes=(describe(check),))


def judge(median: float | None, control: float | None, n_features: int, config: OutputsConfig) -> Check:
    """Whether ablated features move the logits as their decoder directions say, more than random directions
    do."""
    expected = "a median correlation above that of other features' directions"
    if median is None or control is None:
        note = f"no feature fires {config.min_firing} times on {config.n_samples} samples"
        return Check(name=OUTPUT_CHECK, passed=False, value=None, expected=expected, note=note)
    return Check(
        name=OUTPUT_CHECK,
        passed=median > control,
        value=rounded(median),
        expected=expected,
        note=f"control {control:.3g}, {n_features} features ablated; the rest goes through later layers",
    )


MEASURE_OUTPUTS = Stage(
    name="measure_outputs",
    config=MeasureOutputsConfig,
    run=run,
    inputs=("tokenize_dataset",),
    modules=(
        "pipeline.stages.measure_outputs",
        "pipeline.ablation",
        "pipeline.checks",
        "pipeline.outputs",
        "pipeline.batches",
        "pipeline.tokenisation",
        "pipeline.sources.model",
        "pipeline.sources.huggingface_model",
        "pipeline.sources.bridge_model",
        "pipeline.sources.sae",
        "pipeline.sources.saelens_format",
    ),
    external=external,
)
