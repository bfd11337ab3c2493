import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

from pipeline.config import Execution, RunConfig
from pipeline.runner import run_stages
from pipeline.source_config import ModelConfig
from pipeline.sources.tokenizer import Tokenizer, readable
from pipeline.stages.tokenize_dataset import TOKENIZE_DATASET, excluded_positions, settle
from pipeline.tokenisation import TokenisedSamples
from saeinterp_mcp.errors import BadInput
from tests.pipeline.conftest import EXAMPLE
from tests.pipeline.recorded import Recorder


def tokenise(folder: Path, metadata: dict[str, Any], text: list[Any], **sections: Any) -> TokenisedSamples:
    """Run the stage alone on some documents, with an SAE that states the given metadata."""
    sae = folder / "sae"
    sae.mkdir(exist_ok=True)
    cfg = {"architecture": "standard", "d_in": 4, "d_sae": 8, "metadata": metadata}
    (sae / "cfg.json").write_text(json.dumps(cfg), encoding="utf-8")
    column = "text" if isinstance(text[0], str) else "token_ids"
    pl.DataFrame({column: text, "module": [f"m{index}" for index in range(len(text))]}).write_parquet(
        folder / "d.parquet"
    )
    dataset = {"format": "parquet", "path": "d.parquet", column: column, "groups": ["module"]}
    content = {
        "name": "t",
        "model": {"path": str(EXAMPLE / "model")},
        "sae": {"path": "sae"},
        "dataset": dataset,
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(content | sections), encoding="utf-8")
    run = RunConfig.load(folder / "run.yaml")
    artifacts = run_stages([TOKENIZE_DATASET], run, execution=Execution(), progress=Recorder())
    return TokenisedSamples(artifacts["tokenize_dataset"])


STATED = {"hook_name": "blocks.2.hook_resid_post", "context_size": 8, "prepend_bos": True}


def ids(samples: TokenisedSamples) -> list[list[int]]:
    return [shard.sample(i).tolist() for shard, _ in samples.tables() for i in range(shard.n_samples)]


def test_long_documents_are_cut_into_windows_that_begin_with_bos(tmp_path: Path) -> None:
    samples = tokenise(tmp_path, STATED, [list(range(1, 18)), [40]])
    assert ids(samples) == [[0, 1, 2, 3, 4, 5, 6, 7], [0, *range(8, 15)], [0, 15, 16, 17], [0, 40]]
    others = pl.concat([pl.DataFrame(table.to_pydict()) for _, table in samples.tables()])
    assert others["group:module"].to_list() == ["m0", "m0", "m0", "m1"]
    assert others["unit"].n_unique() == 2
    assert samples.tokenisation.excluded_positions == (0,)
    assert (samples.tokenisation.n_samples, samples.tokenisation.n_tokens) == (4, 18)


def test_text_is_tokenised_without_special_tokens_and_reads_back(tmp_path: Path) -> None:
    texts = ["def f(x):\n    return 'π'\n", "<|endoftext|>"]
    samples = tokenise(tmp_path, STATED | {"context_size": 64}, texts)
    tokens = [[samples.token_strings[token] for token in sample] for sample in ids(samples)]
    assert tokens[0][:4] == ["<|endoftext|>", "def", " f", "("]
    assert "<0xCF><0x80>" in "".join(tokens[0]) or "π" in "".join(tokens[0])
    assert samples.tokenisation.special_ids == (0,)


def test_a_bos_that_is_already_there_is_not_doubled(tmp_path: Path) -> None:
    assert ids(tokenise(tmp_path, STATED, [[0, 5, 6]])) == [[0, 5, 6]]


def test_without_bos_windows_are_as_long_as_the_context(tmp_path: Path) -> None:
    samples = tokenise(tmp_path, STATED | {"prepend_bos": False, "context_size": 3}, [[5, 6, 7, 8]])
    assert ids(samples) == [[5, 6, 7], [8]]
    assert samples.tokenisation.excluded_positions == ()


def test_documents_beyond_the_caps_are_counted(tmp_path: Path) -> None:
    documents = [[5] * 10, [], [6] * 10, [7] * 10, [8] * 10]
    samples = tokenise(tmp_path, STATED, documents, tokenize={"max_tokens": 18})
    assert [len(sample) for sample in ids(samples)] == [8, 4, 8]
    artifact = json.loads(
        (tmp_path / "t.work" / "tokenize_dataset" / "artifact.json").read_text(encoding="utf-8")
    )
    assert artifact["summary"] == {
        "n_in": 5,
        "n_kept": 2,
        "dropped": {"empty": 1, "beyond max_tokens": 2},
        "notes": [
            "3 samples of at most 8 tokens, 17 tokens without BOS",
            "1 windows of the last document are beyond max_tokens",
        ],
    }
    samples = tokenise(tmp_path, STATED, documents, tokenize={"max_documents": 1})
    assert len(ids(samples)) == 2
    artifact = json.loads(
        (tmp_path / "t.work" / "tokenize_dataset" / "artifact.json").read_text(encoding="utf-8")
    )
    assert artifact["summary"]["dropped"] == {"beyond max_documents": 4}


def test_shards_are_full_of_whole_samples(tmp_path: Path) -> None:
    samples = tokenise(tmp_path, STATED, [[5] * 30], tokenize={"shard_tokens": 10})
    assert [shard.n_samples for shard, _ in samples.tables()] == [2, 2, 1]
    assert [shard.first_sample for shard, _ in samples.tables()] == [0, 2, 4]


@pytest.mark.parametrize(
    ("missing", "setting"),
    [
        ("context_size", "tokenize.context_size"),
        ("prepend_bos", "tokenize.prepend_bos"),
        ("hook_name", "sae.hook_name"),
    ],
)
def test_what_the_sae_does_not_state_is_never_made_up(missing: str, setting: str, tmp_path: Path) -> None:
    stated = {key: value for key, value in STATED.items() if key != missing}
    with pytest.raises(BadInput) as error:
        tokenise(tmp_path, stated, [[5]])
    assert str(error.value) == f"the SAE's metadata does not state {missing}; give it as {setting}"


def test_a_setting_that_contradicts_the_sae_is_refused_unless_it_is_meant(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        tokenise(tmp_path, STATED, [[5] * 9], tokenize={"context_size": 4})
    assert str(error.value) == (
        "tokenize.context_size is 4, but the SAE's metadata states context_size 8;"
        " remove the setting, or say tokenize.override: true if you mean it"
    )
    samples = tokenise(tmp_path, STATED, [[5] * 9], tokenize={"context_size": 4, "override": True})
    assert [len(sample) for sample in ids(samples)] == [4, 4, 4]
    assert settle("tokenize.prepend_bos", False, "prepend_bos", False, override=False) is False


def test_ids_of_another_tokenizer_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        tokenise(tmp_path, STATED, [[5], [4096]])
    assert str(error.value) == (
        f"{tmp_path / 'd.parquet'} row 1: token id 4096 is not in the model's vocabulary of 4096 (0 to 4095);"
        " the dataset was tokenised for another model"
    )


def test_a_dataset_of_empty_documents_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as error:
        tokenise(tmp_path, STATED, ["", ""])
    assert str(error.value) == "dataset: no document is left to tokenise; dropped: {'empty': 2}"


def test_positions_the_sae_was_not_trained_on_are_excluded() -> None:
    assert excluded_positions(6, prepend_bos=True, seqpos_slice=(1, None)) == (0,)
    assert excluded_positions(6, prepend_bos=False, seqpos_slice=(2, -1)) == (0, 1, 5)
    assert excluded_positions(6, prepend_bos=False, seqpos_slice=None) == ()


def test_bytes_that_are_not_text_are_spelled_out() -> None:
    assert readable(b" def") == " def"
    assert readable("π".encode()) == "π"
    assert readable(b" \xe2\x80") == " <0xE2><0x80>"
    assert readable(b"\x80a\xff") == "<0x80>a<0xFF>"


def test_tokens_of_byte_level_bpe_read_as_text(tmp_path: Path) -> None:
    tokenizer = Tokenizer(ModelConfig(path=EXAMPLE / "model"))
    strings = tokenizer.token_strings()
    assert len(strings) == tokenizer.n_tokens == 4096
    [encoded] = tokenizer.encode(["def f():\n    return x  # π€\n"])
    text = b""
    for token in encoded:
        piece = strings[token]
        text += (
            bytes(int(piece[i + 3 : i + 5], 16) for i in range(0, len(piece), 6))
            if "<0x" in piece
            else piece.encode()
        )
    assert text.decode() == "def f():\n    return x  # π€\n"
    assert strings[0] == "<|endoftext|>"
    assert sum("<0x" in string for string in strings) > 100


def test_tokens_of_sentencepiece_read_as_text(tmp_path: Path) -> None:
    from tokenizers import AddedToken, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<s>": 0, "<unk>": 1, "<0xE2>": 2, "<0x41>": 3, "▁def": 4, "a": 5, "▁": 6}
    backend = Backend(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    backend.add_special_tokens([AddedToken("<s>", special=True), AddedToken("<unk>", special=True)])
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", unk_token="<unk>").save_pretrained(
        tmp_path
    )
    tokenizer = Tokenizer(ModelConfig(path=tmp_path))
    assert tokenizer.token_strings() == ["<s>", "<unk>", "<0xE2>", "A", " def", "a", " "]
    assert (tokenizer.bos_id, tokenizer.special_ids) == (0, frozenset({0, 1}))


def test_a_model_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"model: no tokenizer could be read from {tmp_path}"):
        Tokenizer(ModelConfig(path=tmp_path))
