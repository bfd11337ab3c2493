"""delphi's `LatentCache.run` and `save_splits`, called as its `populate_cache` calls them.

Its environment is its own (`environments.py`). What is ours: the model is loaded in float32 onto the CPU, where
delphi asks for a CUDA device and bf16; the tokens are given, where it downloads a dataset; and our SAE's weights are
put into `JumpReluSae`, the one class it has for such an SAE, whose own loader only knows Gemma Scope on the hub. That
class does not subtract `b_dec` from its input, so the subtraction is folded into `b_enc`: a little less work for it.
The batch of 32 sequences and the 5 splits are its defaults.
"""

from benchmarks.collection.stopwatch import Stopwatch, keep, read_arguments

BATCH_SEQUENCES = 32
N_SPLITS = 5
HOOKPOINT = "h.2"
"""`blocks.2.hook_resid_post`, by its name in the `AutoModel` that delphi loads."""


def main() -> None:
    arguments = read_arguments()
    watch = Stopwatch()
    with watch.lap("load"):
        import numpy as np
        import torch
        from delphi.latents import LatentCache  # type: ignore[import-not-found]
        from delphi.sparse_coders.custom.gemmascope import JumpReluSae  # type: ignore[import-not-found]
        from safetensors.torch import load_file
        from transformers import AutoModel

        torch.set_num_threads(arguments.threads)
        tokens = torch.from_numpy(np.load(arguments.work / "tokens.npy"))
        model = AutoModel.from_pretrained(arguments.model, dtype=torch.float32)
        weights = {k: v.float() for k, v in load_file(arguments.sae / "sae_weights.safetensors").items()}
        weights["b_enc"] = weights["b_enc"] - weights["b_dec"] @ weights["W_enc"]
        sae = JumpReluSae(*weights["W_enc"].shape)
        sae.load_state_dict(weights)
        cache = LatentCache(model, {HOOKPOINT: sae.encode}, batch_size=BATCH_SEQUENCES)
    with watch.lap("collect"):
        cache.run(tokens.numel(), tokens)
    with watch.lap("save"):
        cache.save_splits(n_splits=N_SPLITS, save_dir=arguments.out / "latents")
    values = cache.cache.latent_activations[HOOKPOINT].numpy()
    watch.report(arguments.out, cache.cache.tokens[HOOKPOINT].numel(), len(values))
    if arguments.keep:
        row, position, feature = cache.cache.latent_locations[HOOKPOINT].numpy().T
        keep(arguments.out, row, position, feature, values)


if __name__ == "__main__":
    main()
