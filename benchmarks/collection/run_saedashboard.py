"""SAEDashboard's collection of feature activations: `FeatureDataGenerator.get_feature_data`, a batch of features at
a time, as `NeuronpediaRunner` has it done by `SaeVisRunner`; with `--whole` the `SaeVisRunner` itself, which
goes on to the dashboards' histograms, sequences and tables.

Its environment is its own (`environments.py`). What is ours: `NeuronpediaRunner` cannot be made here, because it loads
models by names from a list and streams a dataset from the hub. So the demo model is put into the same class,
`HookedSAETransformer`, with TransformerLens' own conversion and without its processing, which would move the residual
stream that the SAE was trained on; and the tokens are given. It scales activations by the norms of the decoder's
directions, which are 1 within 1e-4 here. Sizes of batches and the cache of the model's
activations on disk are the defaults of `NeuronpediaRunnerConfig`.
"""

from typing import Any

from benchmarks.collection.stopwatch import Stopwatch, keep, read_arguments

HOOK = "blocks.2.hook_resid_post"
BATCH_FEATURES = 128
BATCH_SEQUENCES = 32
BOS = 0


def load_model(path: str) -> Any:
    """The demo model as a `HookedSAETransformer`."""
    import torch
    from sae_lens import HookedSAETransformer
    from transformer_lens import HookedTransformerConfig
    from transformer_lens.loading_from_pretrained import convert_hf_model_config
    from transformer_lens.pretrained.weight_conversions import convert_gpt2_weights
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    config = HookedTransformerConfig.from_dict(
        convert_hf_model_config(path)
        | {"model_name": "pycode", "init_weights": False, "dtype": torch.float32, "device": "cpu"}
    )
    model = HookedSAETransformer(config, tokenizer=AutoTokenizer.from_pretrained(path))
    model.load_and_process_state_dict(
        convert_gpt2_weights(source, config),
        fold_ln=False,
        center_writing_weights=False,
        center_unembed=False,
        fold_value_biases=False,
    )
    return model.eval()


def main() -> None:
    arguments = read_arguments()
    watch = Stopwatch()
    with watch.lap("load"):
        import numpy as np
        import torch
        from sae_dashboard.feature_data_generator import FeatureDataGenerator  # type: ignore[import-not-found]
        from sae_dashboard.sae_vis_data import SaeVisConfig  # type: ignore[import-not-found]
        from sae_dashboard.sae_vis_runner import (  # type: ignore[import-not-found]
            FeatureDataGeneratorFactory,
            SaeVisRunner,
        )
        from sae_lens import SAE

        torch.set_num_threads(arguments.threads)
        tokens = torch.from_numpy(np.load(arguments.work / "tokens.npy"))
        model = load_model(str(arguments.model))
        sae = SAE.load_from_disk(str(arguments.sae), device="cpu")
        sae.fold_W_dec_norm()  # NeuronpediaRunner does so before it runs
    n_activations = 0
    kept: list[Any] = []
    collect = FeatureDataGenerator.get_feature_data

    def timed(self: Any, features: list[int], progress: Any = None) -> Any:
        with watch.lap("collect"):
            found = collect(self, features, progress)
        nonlocal n_activations
        n_activations += int((found[0] > 0).sum())
        if arguments.keep:
            row, position, index = (found[0] > 0).nonzero(as_tuple=True)
            kept.append((row, position, index + features[0], found[0][row, position, index]))
        return found

    FeatureDataGenerator.get_feature_data = timed
    for first in range(0, sae.cfg.d_sae, BATCH_FEATURES):
        config = SaeVisConfig(
            hook_point=HOOK,
            features=list(range(first, min(first + BATCH_FEATURES, sae.cfg.d_sae))),
            minibatch_size_features=BATCH_FEATURES,
            minibatch_size_tokens=BATCH_SEQUENCES,
            cache_dir=arguments.out / "cached_activations",
            ignore_tokens={BOS},
        )
        runner = SaeVisRunner(config)  # makes the folder of the cache
        if arguments.whole:
            with watch.lap("whole"):
                runner.run(encoder=sae, model=model, tokens=tokens)
        else:
            with torch.inference_mode():
                generator = FeatureDataGeneratorFactory.create(config, model, sae, tokens)
                generator.get_feature_data(config.features)
    watch.report(arguments.out, tokens.numel(), n_activations)
    if arguments.keep:
        keep(arguments.out, *(torch.cat(piece).numpy() for piece in zip(*kept, strict=True)))


if __name__ == "__main__":
    main()
