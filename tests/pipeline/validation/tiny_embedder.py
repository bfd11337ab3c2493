"""A sentence-transformers model of one layer and random weights, in a folder: vectors cost a millisecond a text."""

import json
from pathlib import Path

from examples.validation.make_world import FILLERS, WORDS

WIDTH = 32


def write_embedder(folder: Path) -> Path:
    """Make the model; texts that share words come out near each other."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = [
        "[PAD]",
        "[UNK]",
        *WORDS,
        *(one.strip("▁") for one in FILLERS),
        "word",
        "names",
        "running",
        "text",
        "or",
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    raw = folder / "raw"
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    ).save_pretrained(raw)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=WIDTH,
        max_position_embeddings=64,
        initializer_range=1.0,
    )
    BertModel(config).save_pretrained(raw)
    transformer = modules.Transformer(str(raw))
    model = SentenceTransformer(modules=[transformer, modules.Pooling(WIDTH)], device="cpu")
    made = folder / "tiny-embedder"
    model.save(str(made), create_model_card=False)
    assert json.loads((made / "modules.json").read_text(encoding="utf-8"))
    return made
