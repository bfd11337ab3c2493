"""Measure a language model and its SAE on the documents that the model never saw.

    python evaluate.py [--model DIR] [--sae DIR] [--out FILE]

Documents are those of the running Python; figures compare only where `corpus_hash` agrees.
"""

import argparse
import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from capture import Edit, edited_residual, residual
from corpus import Document, corpus_hash, standard_library_documents
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2LMHeadModel

HERE = Path(__file__).parent
BATCH_WINDOWS = 16
IGNORED = -100


@dataclass(frozen=True)
class TextFigures:
    """How well the language model predicts one kind of text."""

    n_documents: int
    n_bytes: int
    n_tokens: int
    nats_per_token: float
    bits_per_byte: float


@dataclass(frozen=True)
class SaeFigures:
    """What the SAE keeps of the residual stream, over every held-out token but the first of each window."""

    n_tokens: int
    l0: float
    explained_variance: float
    fraction_dead: float
    """Features that fire on no held-out token."""
    fraction_rare: float
    """Features that fire on fewer than one token in 10 000, the dead included."""
    n_dense: int
    """Features that fire on more than a tenth of the tokens."""
    loss_clean: float
    loss_sae: float
    loss_mean_ablated: float
    loss_zero_ablated: float
    recovered_against_mean: float
    recovered_against_zero: float


@dataclass(frozen=True)
class Sae:
    """A JumpReLU SAE as SAELens writes it: what is above its feature's threshold counts."""

    encoder: Tensor
    encoder_bias: Tensor
    decoder: Tensor
    decoder_bias: Tensor
    threshold: Tensor
    layer: int

    def encode(self, activations: Tensor) -> Tensor:
        """Feature activations, (..., width) to (..., features)."""
        before = (activations - self.decoder_bias) @ self.encoder + self.encoder_bias
        return torch.where(before > self.threshold, before, 0.0).relu()

    def reconstruct(self, activations: Tensor) -> Tensor:
        """What is left of activations after the detour through the features."""
        return self.encode(activations) @ self.decoder + self.decoder_bias


def load_sae(folder: Path) -> Sae:
    """Read a SAELens folder; computes in fp32 whatever the file holds."""
    config = json.loads((folder / "cfg.json").read_text())
    if config["architecture"] != "jumprelu" or config["normalize_activations"] != "none":
        raise ValueError(f"{folder}: expected a jumprelu SAE with normalize_activations none")
    if not config["apply_b_dec_to_input"]:
        raise ValueError(f"{folder}: expected apply_b_dec_to_input")
    weights = {name: tensor.float() for name, tensor in load_file(folder / "sae_weights.safetensors").items()}
    return Sae(
        encoder=weights["W_enc"],
        encoder_bias=weights["b_enc"],
        decoder=weights["W_dec"],
        decoder_bias=weights["b_dec"],
        threshold=weights["threshold"],
        layer=int(config["metadata"]["hook_name"].split(".")[1]),
    )


def heldout_documents() -> list[Document]:
    """The running Python's documents that were kept from the language model."""
    return [document for document in standard_library_documents() if document.heldout]


def document_targets(documents: Iterable[Document], tokenizer: Tokenizer, length: int) -> Tensor:
    """Each document cut into windows of `length` tokens; the last one filled up with -100."""
    rows: list[Tensor] = []
    for document in documents:
        for window in torch.tensor(tokenizer.encode(document.text).ids).split(length):
            rows.append(F.pad(window, (0, length - len(window)), value=IGNORED))
    return torch.stack(rows)


def inputs_for(targets: Tensor) -> Tensor:
    """What predicts the targets: id 0, then every target but the last."""
    return F.pad(targets[:, :-1].clamp(min=0), (1, 0))


@torch.no_grad()
def summed_loss(model: GPT2LMHeadModel, targets: Tensor) -> float:
    """Cross entropy in nats, summed over the tokens that are not -100."""
    total = 0.0
    for rows in targets.split(BATCH_WINDOWS):
        logits = model(inputs_for(rows)).logits.float()
        total += F.cross_entropy(
            logits.flatten(0, 1), rows.flatten(), ignore_index=IGNORED, reduction="sum"
        ).item()
    return total


def bits_per_byte(
    model: GPT2LMHeadModel, tokenizer: Tokenizer, documents: list[Document]
) -> dict[str, TextFigures]:
    """Figures for each kind of document. Bits per byte compare across tokenizers; nats per token do not."""
    figures: dict[str, TextFigures] = {}
    for kind in ("source", "docs", "c_docstring"):
        chosen = [document for document in documents if document.kind == kind]
        targets = document_targets(chosen, tokenizer, model.config.n_positions)
        n_tokens = int((targets != IGNORED).sum())
        n_bytes = sum(len(document.text.encode()) for document in chosen)
        nats = summed_loss(model, targets)
        figures[kind] = TextFigures(
            len(chosen), n_bytes, n_tokens, nats / n_tokens, nats / math.log(2) / n_bytes
        )
    return figures


@torch.no_grad()
def sae_figures(model: GPT2LMHeadModel, sae: Sae, targets: Tensor) -> SaeFigures:
    """Reconstruction of the activations, and what the language model loses by it.

    Recovered: 1 if the SAE costs nothing, 0 if it is as bad as the ablation. Position 0 stays as it is in
    every edit: it is the same for all windows and no SAE of this example is trained on it.
    """
    x = torch.cat([kept_residual(model, rows, sae.layer) for rows in targets.split(BATCH_WINDOWS)])
    mean = x.mean(0)
    n_firing = torch.zeros(sae.decoder.shape[0])
    squared_error = 0.0
    for part in x.split(8192):
        features = sae.encode(part)
        n_firing += (features > 0).sum(0)
        squared_error += (part - features @ sae.decoder - sae.decoder_bias).pow(2).sum().item()
    rate = n_firing / len(x)
    clean, by_sae, by_mean, by_zero = (
        loss_after_first(model, targets, sae.layer, edit)
        for edit in (lambda h: h, sae.reconstruct, lambda h: mean.expand_as(h), torch.zeros_like)
    )
    return SaeFigures(
        n_tokens=len(x),
        l0=rate.sum().item(),
        explained_variance=1 - squared_error / (x - mean).pow(2).sum().item(),
        fraction_dead=(n_firing == 0).float().mean().item(),
        fraction_rare=(rate < 1e-4).float().mean().item(),
        n_dense=int((rate > 0.1).sum()),
        loss_clean=clean,
        loss_sae=by_sae,
        loss_mean_ablated=by_mean,
        loss_zero_ablated=by_zero,
        recovered_against_mean=(by_mean - by_sae) / (by_mean - clean),
        recovered_against_zero=(by_zero - by_sae) / (by_zero - clean),
    )


def kept_residual(model: GPT2LMHeadModel, rows: Tensor, layer: int) -> Tensor:
    """Residuals (tokens, width) at every position that holds a token of a document, position 0 left out."""
    inputs = inputs_for(rows)
    holds_token = F.pad(rows[:, :-1] != IGNORED, (1, 0), value=False)
    return residual(model, inputs, layer)[holds_token]


def loss_after_first(model: GPT2LMHeadModel, targets: Tensor, layer: int, edit: Edit) -> float:
    """Mean loss, nats per token, at every position but 0, with the residual edited there."""
    counted = targets.clone()
    counted[:, 0] = IGNORED
    # The inputs are made from the full rows, so that only the counting changes.
    total = 0.0
    with edited_residual(model, layer, lambda h: torch.cat([h[:, :1], edit(h[:, 1:])], dim=1)):
        for rows, kept in zip(targets.split(BATCH_WINDOWS), counted.split(BATCH_WINDOWS), strict=True):
            logits = model(inputs_for(rows)).logits.float()
            total += F.cross_entropy(
                logits.flatten(0, 1), kept.flatten(), ignore_index=IGNORED, reduction="sum"
            ).item()
    return total / int((counted != IGNORED).sum())


def load_model(folder: Path) -> GPT2LMHeadModel:
    """A HuggingFace directory, computing in fp32 whatever the file holds."""
    model: GPT2LMHeadModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=HERE / "model")
    parser.add_argument("--sae", type=Path, default=HERE / "sae")
    parser.add_argument("--no-sae", action="store_true", help="measure the language model alone")
    parser.add_argument("--out", type=Path, help="write the figures here as well")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = load_model(arguments.model)
    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    documents = standard_library_documents()
    heldout = [document for document in documents if document.heldout]
    text = {kind: asdict(figures) for kind, figures in bits_per_byte(model, tokenizer, heldout).items()}
    figures: dict[str, object] = {"corpus_hash": corpus_hash(documents), "text": text}
    if not arguments.no_sae:
        targets = document_targets(heldout, tokenizer, model.config.n_positions)
        figures["sae"] = asdict(sae_figures(model, load_sae(arguments.sae), targets))
    written = json.dumps(figures, indent=1) + "\n"
    print(written, end="")
    if arguments.out:
        arguments.out.write_text(written)


if __name__ == "__main__":
    main()
