"""Does this SAE belong to this model, at this hook, on this text? Leaves `checks.json`, or stops the
build."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.checks import MARGIN, Check, describe, enforce, not_run, rounded
from pipeline.config import ChecksConfig, Execution
from pipeline.fingerprint import located_files, write_whole
from pipeline.source_config import ModelConfig, SaeConfig
from pipeline.stage import Progress, Stage, Summary
from pipeline.tokenisation import TokenisedSamples
from saeinterp_mcp.fingerprint import canonical_json
from saeinterp_mcp.frozen import Frozen

if TYPE_CHECKING:
    from pipeline.sources.model import LanguageModel
    from pipeline.sources.sae import SparseAutoencoder


class CheckLoadConfig(Frozen):
    """The sections that decide what is checked."""

    model: ModelConfig
    sae: SaeConfig
    checks: ChecksConfig


def external(config: CheckLoadConfig) -> dict[str, Path]:
    """The model and the SAE."""
    return located_files(model=config.model, sae=config.sae)


def run(
    config: CheckLoadConfig, inputs: Mapping[str, Path], out: Path, progress: Progress, execution: Execution
) -> Summary:
    """Run every check on a seeded sample; all results are in `checks.json` even where they stop the build."""
    from pipeline.sources.model import load_model
    from pipeline.sources.saelens_format import load_sae

    model = load_model(config.model, execution)
    sae = load_sae(config.sae, model.device)
    samples = TokenisedSamples(inputs["tokenize_dataset"])
    checks = structural_checks(model, sae, samples)
    progress(1, 2)
    checks += measured_checks(model, sae, samples, config.checks, all(check.passed for check in checks))
    progress(2, 2)
    write_whole(out / "checks.json", canonical_json([check.model_dump(mode="json") for check in checks]))
    checks = enforce(checks, config.checks.allow)
    write_whole(out / "checks.json", canonical_json([check.model_dump(mode="json") for check in checks]))
    overridden = [check for check in checks if not check.passed]
    return Summary(
        n_in=len(checks),
        n_kept=len(checks) - len(overridden),
        dropped={"failed but allowed": len(overridden)} if overridden else {},
        notes=tuple(describe(check) for check in checks),
    )


def structural_checks(
    model: "LanguageModel", sae: "SparseAutoencoder", samples: TokenisedSamples
) -> list[Check]:
    """What can be said without running the model."""
    tokenisation = samples.tokenisation
    hooks = f"blocks.0 to blocks.{model.n_layers - 1}, hook_resid_pre or hook_resid_post"
    longest = model.max_length
    return [
        Check(
            name="hook_exists",
            passed=model.hook_exists(tokenisation.hook_name),
            value=tokenisation.hook_name,
            expected=f"one of {hooks}",
        ),
        Check(
            name="shapes_agree",
            passed=sae.header.d_in == model.d_model,
            value=float(sae.header.d_in),
            expected=f"d_in of the SAE equal to d_model {model.d_model}",
        ),
        Check(
            name="context_fits",
            passed=longest is None or tokenisation.context_size <= longest,
            value=float(tokenisation.context_size),
            expected="a context size within the model's positions" + (f", {longest}" if longest else ""),
        ),
        Check(
            name="vocabulary_fits",
            passed=len(samples.token_strings) <= model.n_outputs,
            value=float(len(samples.token_strings)),
            expected=f"a tokenizer with at most as many tokens as the model has outputs, {model.n_outputs}",
        ),
    ]


def measured_checks(
    model: "LanguageModel",
    sae: "SparseAutoencoder",
    samples: TokenisedSamples,
    config: ChecksConfig,
    can_run: bool,
) -> list[Check]:
    """What running model and SAE on a sample shows."""
    stated = config.expected_l0 if config.expected_l0 is not None else sae.header.metadata.expected_l0
    low, high = (0.0, float(sae.n_features))
    if stated is not None:
        low, high = stated * (1 - config.l0_tolerance), stated * (1 + config.l0_tolerance)
    expectations = {
        "l0": f"{low:.4g} to {high:.4g} features firing at a position",
        "explained_variance": (
            f"at least {config.min_explained_variance:.4g}, and {MARGIN} above that of a shuffled decoder"
        ),
        "loss_recovered": f"at least {config.min_loss_recovered:.4g} of what mean ablation costs",
        "dead_fraction": f"at most {config.max_dead_fraction:.4g} of the features never firing on the sample",
        "unembedding": "correlation of at least 0.99 between logits and final norm times unembedding",
    }
    if not can_run:
        return [not_run(name, expected, "an earlier check failed") for name, expected in expectations.items()]

    from pipeline.evaluation import gather_activations, losses, reconstruction, unembedding_agreement

    tokenisation = samples.tokenisation
    drawn = samples.draw(config.n_tokens, config.seed)
    activations = gather_activations(model, drawn, tokenisation, tokenisation.hook_name)
    found = reconstruction(sae, activations, config.seed)
    loss = losses(model, sae, drawn, tokenisation, tokenisation.hook_name, activations.mean(dim=0))
    agreement = unembedding_agreement(model, drawn)

    variance, shuffled = found.explained_variance, found.shuffled_explained_variance
    results = {
        "l0": (
            low <= found.l0 <= high,
            found.l0,
            "" if stated is not None else "the SAE states neither l0 nor k",
        ),
        "explained_variance": (
            variance >= config.min_explained_variance and variance > shuffled + MARGIN,
            variance,
            f"shuffled decoder {shuffled:.4g}",
        ),
        "loss_recovered": (
            loss.mean_ablated > loss.clean and loss.recovered >= config.min_loss_recovered,
            loss.recovered,
            f"nats per token: clean {loss.clean:.4g}, SAE {loss.reconstructed:.4g},"
            f" mean {loss.mean_ablated:.4g}",
        ),
        "dead_fraction": (
            found.dead_fraction <= config.max_dead_fraction,
            found.dead_fraction,
            f"on {found.n_positions:,} positions",
        ),
        "unembedding": (agreement >= 0.99, agreement, ""),
    }
    return [
        Check(name=name, passed=passed, value=rounded(value), expected=expectations[name], note=note)
        for name, (passed, value, note) in results.items()
    ]


CHECK_LOAD = Stage(
    name="check_load",
    config=CheckLoadConfig,
    run=run,
    inputs=("tokenize_dataset",),
    modules=(
        "pipeline.stages.check_load",
        "pipeline.checks",
        "pipeline.evaluation",
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
