"""Train the language model: a GPT-2 of 4.27 million parameters over windows of 256 tokens.

    python train_lm.py --text WORK --out WORK/lm --minutes 45

The schedule follows the clock, so that the run ends in time whatever else the machine does; `--steps` fixes
it instead. Every window starts with the end-of-text token, because TransformerLens and SAELens put it there
too. Recipe: Muon on the hidden matrices, AdamW on the rest, flat learning rate to 40 % and then linear down.
"""

import argparse
import json
import logging
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from evaluate import bits_per_byte, heldout_documents
from threads import ThreadChooser
from tokenizers import Tokenizer
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

MODEL = Path(__file__).parent / "model"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
CHECKPOINT_SECONDS = 300.0
PROGRESS_STEPS = 25

logger = logging.getLogger("train_lm")


@dataclass(frozen=True)
class Recipe:
    """What decides the result, apart from text and duration."""

    context: int = 256
    batch_windows: int = 32
    width: int = 256
    layers: int = 4
    heads: int = 4
    vocabulary: int = 4096
    muon_rate: float = 0.02
    adam_rate: float = 3e-3
    weight_decay: float = 0.1
    warm_up_steps: int = 30
    flat_until: float = 0.4
    final_rate: float = 0.02
    clip_norm: float = 1.0
    base_share_first: float = 0.25
    """Share of each batch taken from the base corpus at the start; the rest is the further text."""
    base_share_last: float = 0.5
    """The same at the end: the model settles on what it will be shown."""
    seed: int = 0


def new_model(recipe: Recipe) -> GPT2LMHeadModel:
    """An untrained model. TransformerLens 3 reads `n_ctx`, which transformers 5 does not write by itself."""
    config = GPT2Config(
        vocab_size=recipe.vocabulary,
        n_positions=recipe.context,
        n_embd=recipe.width,
        n_layer=recipe.layers,
        n_head=recipe.heads,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        activation_function="gelu_pytorch_tanh",
        attn_implementation="sdpa",
        use_cache=False,
        n_ctx=recipe.context,
    )
    return GPT2LMHeadModel(config)


def optimizers(model: GPT2LMHeadModel, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks; AdamW without decay for embeddings, biases and norms."""
    hidden = [p for n, p in model.named_parameters() if p.dim() == 2 and "wte" not in n and "wpe" not in n]
    chosen = {id(p) for p in hidden}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(hidden, lr=recipe.muon_rate, momentum=0.95, weight_decay=recipe.weight_decay),
        torch.optim.AdamW(others, lr=recipe.adam_rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def rate_factor(step: int, progress: float, recipe: Recipe) -> float:
    """What the learning rates are multiplied with, at `progress` (0 to 1) through the run."""
    warm = min(1.0, (step + 1) / recipe.warm_up_steps)
    if progress < recipe.flat_until:
        return warm
    return warm * max(recipe.final_rate, (1 - progress) / (1 - recipe.flat_until))


def shuffled_windows(tokens: Tensor, length: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Windows of `length` tokens in random order; each pass over the text cuts it at another offset."""
    while True:
        offset = int(torch.randint(0, length, (1,), generator=generator))
        n_windows = (len(tokens) - offset) // length
        for index in torch.randperm(n_windows, generator=generator).tolist():
            yield tokens[offset + index * length :][:length]


def batch(
    base: Iterator[Tensor], further: Iterator[Tensor], progress: float, recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """Inputs and targets, (windows, context) int64; the inputs are the targets moved right, id 0 first."""
    share = recipe.base_share_first + progress * (recipe.base_share_last - recipe.base_share_first)
    n_base = round(share * recipe.batch_windows)
    windows = [next(base) for _ in range(n_base)] + [
        next(further) for _ in range(recipe.batch_windows - n_base)
    ]
    targets = torch.stack(windows).long()
    return F.pad(targets[:, :-1], (1, 0)), targets


def load_tokens(path: Path) -> Tensor:
    """A token array as int32; torch lacks most operations on u16."""
    return torch.from_numpy(np.load(path, allow_pickle=False).astype(np.int32))


def save(model: GPT2LMHeadModel, out: Path, log: dict[str, object]) -> None:
    """Write a HuggingFace directory with its tokenizer, and how the run went."""
    model.save_pretrained(out)
    for name in TOKENIZER_FILES:
        shutil.copyfile(MODEL / name, out / name)
    (out / "training.json").write_text(json.dumps(log, indent=1) + "\n")


def train(
    text: Path, out: Path, recipe: Recipe, minutes: float, steps: int | None, chooser: ThreadChooser
) -> None:
    """Train, with a line of progress every 25 steps and a checkpoint every five minutes."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    base = shuffled_windows(load_tokens(text / "base.npy"), recipe.context, generator)
    further = shuffled_windows(load_tokens(text / "further.npy"), recipe.context, generator)
    model = new_model(recipe).train()
    optimizing = optimizers(model, recipe)
    full_rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizing]
    history: list[dict[str, float]] = []
    started = saved = time.monotonic()
    step, progress, loss_mean = 0, 0.0, math.log(recipe.vocabulary)
    while progress < 1:
        step_started = time.monotonic()
        chooser.start_step()
        for optimizer, rate in zip(optimizing, full_rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * rate_factor(step, progress, recipe)
            optimizer.zero_grad(set_to_none=True)
        inputs, targets = batch(base, further, progress, recipe)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(inputs).logits
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        torch.set_num_threads(1)  # many small products: more threads gain nothing here
        for optimizer in optimizing:
            optimizer.step()
        chooser.end_step(time.monotonic() - step_started)
        step += 1
        loss_mean += 0.05 * (loss.item() - loss_mean)
        seconds = time.monotonic() - started
        progress = step / steps if steps else seconds / (60 * minutes)
        if step % PROGRESS_STEPS == 0:
            history.append({"step": step, "seconds": round(seconds), "loss": round(loss_mean, 4)})
            speed = step * targets.numel() / seconds
            logger.info(
                "step %d, %.0f s, %.1f %%, loss %.3f, %.0f tokens/s, %d threads",
                *(step, seconds, 100 * progress, loss_mean, speed, chooser.threads),
            )
        if time.monotonic() - saved > CHECKPOINT_SECONDS or progress >= 1:
            n_tokens = step * targets.numel()
            run = {"recipe": asdict(recipe), "steps": step, "tokens": n_tokens, "seconds": round(seconds)}
            save(model, out, run | {"loss": history})
            saved = time.monotonic()
    report(model.eval())


def report(model: GPT2LMHeadModel) -> None:
    """Log bits per byte on the held-out documents."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    for kind, figures in bits_per_byte(model, tokenizer, heldout_documents()).items():
        logger.info("held out, %s: %.3f bits per byte", kind, figures.bits_per_byte)


def main() -> None:
    """Read the arguments and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, required=True, help="folder written by training_text.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=45)
    parser.add_argument("--steps", type=int, help="fixed number of steps instead of minutes")
    parser.add_argument(
        "--threads", type=int, default=2, help="most threads; the fastest number up to it is used"
    )
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    chooser = ThreadChooser(arguments.threads)
    train(arguments.text, arguments.out, Recipe(), arguments.minutes, arguments.steps, chooser)


if __name__ == "__main__":
    main()
