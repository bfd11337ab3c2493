"""A language model that says what it is told to: after each word, the next one of a script."""

from collections.abc import Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast


def write_automaton(folder: Path, script: Mapping[str, str], context: int = 64) -> Path:
    """A GPT-2 without blocks, whose likeliest word after `word` is `script[word]`.

    `<end>` ends, and follows words that the script does not name.
    Words are told apart by spaces; unknown ones are `<unknown>`.
    """
    words = ["<end>", "<unknown>", *dict.fromkeys([*script, *script.values()])]
    place = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.WordLevel(place, unk_token="<unknown>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    n = len(place)
    config = GPT2Config(
        vocab_size=n,
        n_positions=context,
        n_embd=n,
        n_layer=0,
        n_head=1,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    after = torch.zeros(n, n)
    for word, i in place.items():
        after[place[script.get(word, "<end>")], i] = 1.0
    with torch.no_grad():
        model.transformer.wte.weight.copy_(torch.eye(n))
        model.transformer.wpe.weight.zero_()
        model.lm_head.weight.copy_(after)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<end>",
        unk_token="<unknown>",
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)
    return folder
