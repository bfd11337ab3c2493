"""Documents to samples: windows of token ids, no longer than the SAE was trained on.

The artifact holds `samples.parquet` (`token_ids` list of u32, `unit`, then the groups; one row group is one
shard of work for the collection), `tokens.json` (the readable string of every id) and `tokenisation.json`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import Execution, TokenizeConfig
from pipeline.fingerprint import located_files, write_whole
from pipeline.source_config import DatasetConfig, ModelConfig, SaeConfig
from pipeline.sources.dataset import Document, dataset_files, group_names, read_documents
from pipeline.stage import Progress, Stage, Summary
from pipeline.tokenisation import Tokenisation
from saeinterp_mcp.errors import BadInput
from saeinterp_mcp.fingerprint import canonical_json
from saeinterp_mcp.frozen import Frozen

WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".msgpack", ".h5")
TEXTS_AT_ONCE = 64

Value = TypeVar("Value", int, bool, str)


class TokenizeDatasetConfig(Frozen):
    """The sections that decide what the samples are."""

    model: ModelConfig
    sae: SaeConfig
    dataset: DatasetConfig
    tokenize: TokenizeConfig


def external(config: TokenizeDatasetConfig) -> dict[str, Path]:
    """The dataset, the model's tokenizer and the SAE's metadata; no weights."""
    files = {
        name: path
        for name, path in located_files(model=config.model, sae=config.sae).items()
        if path.suffix not in WEIGHT_SUFFIXES
    }
    return files | dataset_files(config.dataset)


def run(
    config: TokenizeDatasetConfig,
    inputs: Mapping[str, Path],
    out: Path,
    progress: Progress,
    execution: Execution,
) -> Summary:
    """Read, tokenise and cut every document; memory holds one shard."""
    from pipeline.sources.saelens_format import read_header
    from pipeline.sources.tokenizer import Tokenizer

    for name in group_names(config.dataset):
        if name in ("tokens", "unit"):
            raise BadInput(f"dataset: a group cannot be called {name!r}, a bundle has a column of that name")
    tokenizer = Tokenizer(config.model)
    metadata = read_header(config.sae).metadata
    given, override = config.tokenize, config.tokenize.override
    context_size = settle(
        "tokenize.context_size", given.context_size, "context_size", metadata.context_size, override
    )
    prepend_bos = settle(
        "tokenize.prepend_bos", given.prepend_bos, "prepend_bos", metadata.prepend_bos, override
    )
    hook_name = settle("sae.hook_name", config.sae.hook_name, "hook_name", metadata.hook_name, override)
    if prepend_bos and tokenizer.bos_id is None:
        raise BadInput("the SAE's metadata says prepend_bos, but the model's tokenizer has no BOS token")
    bos = [tokenizer.bos_id] if prepend_bos and tokenizer.bos_id is not None else []
    strings = tokenizer.token_strings()

    counts: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    writer = ShardWriter(out / "samples.parquet", group_names(config.dataset), given.shard_tokens)
    documents = capped(read_documents(config.dataset, dropped), config, dropped, counts)
    for document, ids in token_ids_of(documents, tokenizer):
        check_ids(ids, len(strings), document)
        content = ids[1:] if bos and ids[:1] == bos else ids
        if not content:
            dropped["empty"] += 1
            continue
        size = context_size - len(bos)
        windows = [content[start : start + size] for start in range(0, len(content), size)]
        kept = windows_within(windows, given.max_tokens, counts["tokens"])
        if not kept:
            dropped["beyond max_tokens"] += 1
            continue
        counts["documents"] += 1
        counts["windows beyond max_tokens"] += len(windows) - len(kept)
        for window in kept:
            writer.add([*bos, *window], document)
            counts["samples"] += 1
            counts["tokens"] += len(window)
        progress(counts["tokens"], given.max_tokens or max(counts["tokens"], 1))
    writer.close()
    if not counts["samples"]:
        raise BadInput(f"dataset: no document is left to tokenise; dropped: {dict(dropped)}")

    tokenisation = Tokenisation(
        context_size=context_size,
        prepend_bos=prepend_bos,
        hook_name=hook_name,
        bos_id=tokenizer.bos_id,
        special_ids=tuple(sorted(excluded_ids(tokenizer.special_ids, metadata.exclude_special_tokens))),
        excluded_positions=excluded_positions(context_size, prepend_bos, metadata.seqpos_slice),
        n_samples=counts["samples"],
        n_tokens=counts["tokens"],
        n_documents=counts["documents"],
        groups=group_names(config.dataset),
    )
    write_whole(out / "tokens.json", canonical_json(strings))
    write_whole(out / "tokenisation.json", canonical_json(tokenisation.model_dump(mode="json")))
    return Summary(
        n_in=counts["documents"] + sum(dropped.values()),
        n_kept=counts["documents"],
        dropped=dict(dropped),
        notes=notes(config, counts, context_size),
    )


def settle(setting: str, given: Value | None, field: str, stated: Value | None, override: bool) -> Value:
    """The value that config and SAE agree on.

    Raises:
        BadInput: neither says it, or they contradict each other and `tokenize.override` is not set.
    """
    if given is None and stated is None:
        raise BadInput(f"the SAE's metadata does not state {field}; give it as {setting}")
    if given is None:
        assert stated is not None, "one of the two is there"
        return stated
    if stated is not None and stated != given and not override:
        raise BadInput(
            f"{setting} is {given!r}, but the SAE's metadata states {field} {stated!r};"
            " remove the setting, or say tokenize.override: true if you mean it"
        )
    return given


def excluded_ids(special_ids: frozenset[int], stated: bool | Sequence[int] | None) -> frozenset[int]:
    """Tokens whose activations are not kept: all special ones, and those the SAE was not trained on."""
    return special_ids | frozenset(stated if isinstance(stated, Sequence) else ())


def excluded_positions(
    context_size: int, prepend_bos: bool, seqpos_slice: Sequence[int | None] | None
) -> tuple[int, ...]:
    """Positions that are never counted: BOS, and those outside the slice the SAE was trained on."""
    trained = range(context_size)[slice(*seqpos_slice)] if seqpos_slice else range(context_size)
    return tuple(p for p in range(context_size) if p not in trained or (p == 0 and prepend_bos))


def capped(
    documents: Iterator[Document], config: TokenizeDatasetConfig, dropped: Counter[str], counts: Counter[str]
) -> Iterator[Document]:
    """Documents up to `max_documents`, or until `max_tokens` is reached; the others are counted, not
    tokenised."""
    streamed = config.dataset.path is None
    for index, document in enumerate(documents):
        if (
            index == config.tokenize.max_documents
            or counts["windows beyond max_tokens"]
            or dropped["beyond max_tokens"]
        ):
            reason = "beyond max_documents" if index == config.tokenize.max_documents else "beyond max_tokens"
            if streamed:
                return  # counting the rest would download it
            dropped[reason] += 1 + sum(1 for _ in documents)
            return
        yield document


def token_ids_of(documents: Iterator[Document], tokenizer: Any) -> Iterator[tuple[Document, list[int]]]:
    """Each document with its token ids; texts are tokenised a few at a time, which is faster."""
    waiting: list[Document] = []

    def encoded() -> Iterator[tuple[Document, list[int]]]:
        yield from zip(waiting, tokenizer.encode([document.text or "" for document in waiting]), strict=True)

    for document in documents:
        if document.token_ids is not None:
            yield document, list(document.token_ids)
            continue
        waiting.append(document)
        if len(waiting) == TEXTS_AT_ONCE:
            yield from encoded()
            waiting = []
    yield from encoded()


def windows_within(windows: list[list[int]], max_tokens: int | None, n_before: int) -> list[list[int]]:
    """The first windows that keep the number of tokens, BOS not counted, within `max_tokens`."""
    if max_tokens is None:
        return windows
    kept = []
    for window in windows:
        n_before += len(window)
        if n_before > max_tokens:
            break
        kept.append(window)
    return kept


def check_ids(ids: Sequence[int], n_tokens: int, document: Document) -> None:
    """Refuse ids of another tokenizer."""
    if ids and max(ids) >= n_tokens:
        raise BadInput(
            f"{document.where}: token id {max(ids)} is not in the model's vocabulary of {n_tokens}"
            f" (0 to {n_tokens - 1}); the dataset was tokenised for another model"
        )


def notes(config: TokenizeDatasetConfig, counts: Counter[str], context_size: int) -> tuple[str, ...]:
    """Counts in other units, and what a reader should know."""
    lines = [
        f"{counts['samples']:,} samples of at most {context_size} tokens,"
        f" {counts['tokens']:,} tokens without BOS"
    ]
    if counts["windows beyond max_tokens"]:
        lines.append(
            f"{counts['windows beyond max_tokens']:,} windows of the last document are beyond max_tokens"
        )
    if config.dataset.path is None:
        lines.append("documents of a streamed dataset that were not reached are not counted")
    if config.tokenize.override:
        lines.append("tokenize.override: the config goes before the SAE's metadata")
    return tuple(lines)


class ShardWriter:
    """Writes samples to Parquet, a row group whenever a shard is full; never seen half written."""

    def __init__(self, path: Path, groups: Sequence[str], shard_tokens: int) -> None:
        self._path = path
        self._groups = groups
        self._shard_tokens = shard_tokens
        self._schema = pa.schema(
            [
                ("token_ids", pa.list_(pa.uint32())),
                ("unit", pa.string()),
                *((f"group:{name}", pa.string()) for name in groups),
            ]
        )
        self._temporary = path.with_name(path.name + ".tmp")
        self._writer = pq.ParquetWriter(self._temporary, self._schema, compression="zstd")
        self._rows: list[tuple[list[int], Document]] = []
        self._n_tokens = 0

    def add(self, token_ids: list[int], document: Document) -> None:
        """Add one sample, BOS included."""
        self._rows.append((token_ids, document))
        self._n_tokens += len(token_ids)
        if self._n_tokens >= self._shard_tokens:
            self._flush()

    def close(self) -> None:
        """Write what is left and give the file its name."""
        self._flush()
        self._writer.close()
        self._temporary.replace(self._path)

    def _flush(self) -> None:
        if not self._rows:
            return
        columns: list[list[Any]] = [
            [ids for ids, _ in self._rows],
            [document.unit for _, document in self._rows],
        ]
        columns += [[document.groups[name] for _, document in self._rows] for name in self._groups]
        arrays = [
            pa.array(column, type=field.type) for column, field in zip(columns, self._schema, strict=True)
        ]
        self._writer.write_table(
            pa.Table.from_arrays(arrays, schema=self._schema), row_group_size=len(self._rows)
        )
        self._rows, self._n_tokens = [], 0


TOKENIZE_DATASET = Stage(
    name="tokenize_dataset",
    config=TokenizeDatasetConfig,
    run=run,
    modules=(
        "pipeline.stages.tokenize_dataset",
        "pipeline.tokenisation",
        "pipeline.sources.dataset",
        "pipeline.sources.tokenizer",
        "pipeline.sources.sae",
        "pipeline.sources.saelens_format",
    ),
    external=external,
)
