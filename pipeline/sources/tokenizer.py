"""Other people's tokenizers: text to ids, and every id to the readable string a store shows for it."""

import codecs
import json
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.source_config import ModelConfig
from saeinterp_mcp.errors import BadInput


def _spell_bytes(error: UnicodeError) -> tuple[str, int]:
    """Error handler of `bytes.decode`: each undecodable byte becomes `<0xE2>`."""
    assert isinstance(error, UnicodeDecodeError), "the handler is used for decoding only"
    spelled = "".join(f"<0x{byte:02X}>" for byte in error.object[error.start : error.end])
    return spelled, error.end


codecs.register_error("saeinterp_spell_bytes", _spell_bytes)


def readable(content: bytes) -> str:
    """UTF-8 text, with every byte that is not part of a whole character written as `<0xE2>`."""
    return content.decode("utf-8", errors="saeinterp_spell_bytes")


class Tokenizer:
    """The tokenizer of a model directory, through `transformers`."""

    def __init__(self, model: ModelConfig) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(model.source, revision=model.revision)
        except (OSError, ValueError) as error:
            raise BadInput(f"model: no tokenizer could be read from {model.source}: {error}") from error

    @property
    def n_tokens(self) -> int:
        """Size of the vocabulary, added tokens included: ids are 0 to n_tokens - 1."""
        return len(self._tokenizer)

    @property
    def bos_id(self) -> int | None:
        """Id of the token that begins a sequence; None if the tokenizer has none."""
        bos = self._tokenizer.bos_token_id
        return None if bos is None else int(bos)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids of tokens that stand for no text (BOS, EOS, padding and so on)."""
        return frozenset(int(token) for token in self._tokenizer.all_special_ids)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without BOS or any other special token added."""
        if not texts:
            return []
        encoded = self._tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [list(ids) for ids in encoded]

    def token_strings(self) -> list[str]:
        """For each id its text, with every undecodable byte as `<0xE2>`; a space is a space."""
        pieces = self._tokenizer.convert_ids_to_tokens(list(range(self.n_tokens)))
        added = self._tokenizer.added_tokens_decoder
        to_bytes = self._byte_reader()
        return [
            str(added[index])
            if index in added
            else f"<unused {index}>"
            if piece is None
            else readable(to_bytes(piece))
            for index, piece in enumerate(pieces)
        ]

    def _byte_reader(self) -> Any:
        """How this tokenizer writes bytes in its vocabulary."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        kinds = set() if backend is None else set(_types_in(json.loads(backend.to_str())))
        if "ByteLevel" in kinds:
            return from_byte_level
        return from_sentencepiece


def _types_in(value: object) -> Iterator[str]:
    """The `type` of every part of a tokenizer's description that is not its vocabulary."""
    if isinstance(value, dict):
        if isinstance(value.get("type"), str):
            yield value["type"]
        for key, inner in value.items():
            if key not in ("vocab", "merges", "added_tokens"):
                yield from _types_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _types_in(inner)


def _byte_level_alphabet() -> dict[str, int]:
    """Character to byte in a byte-level BPE vocabulary: printable bytes stand for themselves, the others
    follow 255.

    Radford et al. 2019, `bytes_to_unicode` in github.com/openai/gpt-2/blob/master/src/encoder.py.
    """
    printable = [
        *range(ord("!"), ord("~") + 1),
        *range(ord("¡"), ord("¬") + 1),
        *range(ord("®"), ord("ÿ") + 1),
    ]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    return alphabet | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_LEVEL = _byte_level_alphabet()


def from_byte_level(piece: str) -> bytes:
    """`Ġdef` to b" def"; a character outside the alphabet stands for itself."""
    if all(character in _BYTE_LEVEL for character in piece):
        return bytes(_BYTE_LEVEL[character] for character in piece)
    return piece.encode("utf-8")


def from_sentencepiece(piece: str) -> bytes:
    """`▁def` to b" def", the byte token `<0xE2>` to that byte."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        try:
            return bytes([int(piece[3:5], 16)])
        except ValueError:
            pass
    return piece.replace("▁", " ").encode("utf-8")
