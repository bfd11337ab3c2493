"""Does this SAE belong to this model, at this hook, on this text? Leaves `checks.json`, or stops the
build."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.checks import Check, describe, enforce, not_run, reconstruction_checks, rounded
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
    recovers = f"at least {config.min_loss_recovered:.4g} of what mean ablation costs"
    agrees = "correlation of at least 0.99 between logits and final norm times unembedding"
    stated, why_not = sae.header.metadata.expected_l0, "an earlier check failed"
    if not can_run:
        l0, variance, dead = reconstruction_checks(None, config, stated, sae.n_features, "position", why_not)
        loss, unembedding = (
            not_run(name, expected, why_not)
            for name, expected in (("loss_recovered", recovers), ("unembedding", agrees))
        )
        return [l0, variance, loss, dead, unembedding]

    from pipeline.evaluation import gather_activations, losses, reconstruction, unembedding_agreement

    tokenisation = samples.tokenisation
    drawn = samples.draw(config.n_tokens, config.seed)
    activations = gather_activations(model, drawn, tokenisation, tokenisation.hook_name)
    found = reconstruction(sae, activations, config.seed)
    l0, variance, dead = reconstruction_checks(found, config, stated, sae.n_features, "position", why_not)
    lost = losses(model, sae, drawn, tokenisation, tokenisation.hook_name, activations.mean(dim=0))
    loss = Check(
        name="loss_recovered",
        passed=lost.mean_ablated > lost.clean and lost.recovered >= config.min_loss_recovered,
        value=rounded(lost.recovered),
        expected=recovers,
        note=f"nats per token: clean {lost.clean:.4g}, SAE {lost.reconstructed:.4g}, mean {lost.mean_ablated:.4g}",
    )
    agreement = unembedding_agreement(model, drawn)
    unembedding = Check(
        name="unembedding", passed=agreement >= 0.99, value=rounded(agreement), expected=agrees
    )
    return [l0, variance, loss, dead, unembedding]


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
