"""Tokenizers: the bytes themselves, or any that the tokenizers library reads.

Only the text of a document is encoded: no token is put around it, and what a tokenizer's file says of truncation and
padding does not count. Special tokens that stand in a document are text like any other, unless asked for: a document
does not speak for whoever trains on it.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trainer.runs.data.pieces import Ids, Piece
from verification.errors import UserError

BYTES = 256
"""Tokens of the byte tokenizer."""

OTHER_TOKENIZER = (
    "beside a model of this type transformers' AutoTokenizer makes another tokenizer of the same files: load the "
    "model's by PreTrainedTokenizerFast.from_pretrained"
)


@dataclass(frozen=True)
class Vocabulary:
    """Ids lie below `size`; `separator` stands between documents, `mask` hides tokens from a model; None for none."""

    size: int
    separator: int | None
    mask: int | None


class Tokenizer(Protocol):
    """Encodes text, and goes with the model in the end."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Its ids."""
        ...

    @property
    def identity(self) -> str:
        """A text that two tokenizers share only if they make the same ids of every text."""
        ...

    def encode(self, pieces: Sequence[Piece[bytes]]) -> list[Ids]:
        """Return the ids of each piece; raises UserError, with the place, for what is no text."""
        ...

    def token(self, text: str) -> int | None:
        """Return the id of a token, if there is one of that text."""
        ...

    def save(self, folder: Path) -> None:
        """Write what transformers loads it from."""
        ...


@dataclass(frozen=True)
class ByteTokenizer:
    """A byte is a token; byte 0, which no text has, stands between documents, and the first number that is no byte
    hides bytes."""

    vocabulary: Vocabulary = Vocabulary(BYTES, 0, BYTES)
    identity: str = "bytes"

    def encode(self, pieces: Sequence[Piece[bytes]]) -> list[Ids]:
        """Return the bytes of each piece."""
        return [np.frombuffer(piece.content, np.uint8).astype(np.int64) for piece in pieces]

    def token(self, text: str) -> int | None:
        """Return the number of a byte."""
        data = text.encode()
        return data[0] if len(data) == 1 else None

    def save(self, folder: Path) -> None:
        """Write a fast tokenizer whose 256 tokens are the bytes of UTF-8 text, each with its value as its number."""
        import transformers
        from tokenizers import Tokenizer as Library
        from tokenizers import decoders, models, pre_tokenizers

        vocabulary = {character: value for value, character in enumerate(_byte_alphabet())}
        made = Library(models.BPE(vocab=vocabulary, merges=[]))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        made.decoder = decoders.ByteLevel()
        wrap: Any = transformers.PreTrainedTokenizerFast
        wrap(tokenizer_object=made, clean_up_tokenization_spaces=False).save_pretrained(folder)


def _byte_alphabet() -> list[str]:
    """The printable character that the byte-level pre-tokenizer writes for each byte (GPT-2's table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [value for value in range(256) if value not in printable]
    return [chr(value) if value in printable else chr(256 + others.index(value)) for value in range(256)]


class LibraryTokenizer:
    """A tokenizer of the tokenizers library; `wrapped` is transformers' form of it, which knows its special tokens."""

    def __init__(self, wrapped: Any, special_tokens: bool) -> None:
        """With `special_tokens` those in a document stand for themselves, else they are text."""
        self._wrapped, self._backend = wrapped, wrapped.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = not special_tokens
        self._refused = np.array([] if special_tokens else sorted(_special_ids(self._backend)), np.int64)
        known = self._backend.get_vocab(with_added_tokens=True)
        self.vocabulary = Vocabulary(max(known.values()) + 1, wrapped.eos_token_id, wrapped.mask_token_id)
        written = f"{special_tokens} {self._backend.to_str()}"
        self.identity = hashlib.sha256(written.encode()).hexdigest()

    def encode(self, pieces: Sequence[Piece[bytes]]) -> list[Ids]:
        """Return the ids of each piece; raises UserError, with the place, for what is not UTF-8, or a special token
        that a vocabulary without parts (Unigram, WordLevel) cannot write as text."""
        texts = [_text(piece) for piece in pieces]
        encoded = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        found = [np.array(one.ids, np.int64) for one in encoded]
        for piece, ids in zip(pieces, found, strict=True):
            if (special := np.isin(ids, self._refused)).any():
                token = self._backend.id_to_token(int(ids[special.argmax()]))
                raise UserError(
                    f"{piece.place} has the special token {token!r}, which this tokenizer cannot write as text: take "
                    "it out, or let it stand for itself with data.special_tokens = true"
                )
        return found

    def token(self, text: str) -> int | None:
        """Return the id of a token."""
        found: int | None = self._backend.token_to_id(text)
        return found

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files."""
        self._wrapped.save_pretrained(folder)


def _special_ids(backend: Any) -> set[int]:
    """Return the ids of special tokens, but for the one that stands for what is unknown."""
    model = json.loads(backend.to_str())["model"]
    unknown = {model.get("unk_id"), backend.token_to_id(model.get("unk_token") or "")}
    return {number for number, token in backend.get_added_tokens_decoder().items() if token.special} - unknown


def _text(piece: Piece[bytes]) -> str:
    try:
        return piece.content.decode()
    except UnicodeDecodeError as error:
        kind, number = piece.place.kind, piece.place.number
        where = f"byte {number + error.start}" if kind == "byte" else f"{kind} {number}"
        raise UserError(
            f"{piece.place.path}: {where} is not UTF-8: convert the file, or leave out data.tokenizer to train on bytes"
        ) from error


def read_tokenizer(path: Path, special_tokens: bool) -> LibraryTokenizer:
    """Return the tokenizer in a `tokenizer.json` or in a folder of Hugging Face's; raises UserError."""
    if path.is_file():
        _require_json(path)
    elif not path.is_dir():
        raise UserError(f"data.tokenizer: {path}: no such tokenizer.json or folder; correct the path")
    wrapped = load_wrapped(path)
    if not hasattr(wrapped, "backend_tokenizer"):
        raise UserError(
            f"data.tokenizer: {path} holds a {type(wrapped).__name__}, which no tokenizer.json describes"
        )
    return LibraryTokenizer(wrapped, special_tokens)


def load_wrapped(path: Path) -> Any:
    """Return what transformers makes of a tokenizer's file or folder; raises UserError. Nothing is fetched or run."""
    import transformers

    load: Any = transformers.AutoTokenizer.from_pretrained
    wrap: Any = transformers.PreTrainedTokenizerFast
    try:
        return wrap(tokenizer_file=str(path)) if path.is_file() else load(path, local_files_only=True)
    except Exception as error:  # task's edge: the libraries raise bare exceptions for a bad file
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"tokenizer {path} cannot be loaded: {reason}; give a tokenizer.json or the folder of one"
        ) from error


def loads_beside(config: Any, tokenizer: Path) -> bool:
    """Return whether `AutoTokenizer` makes of a tokenizer's folder the same beside a model's config as alone.

    Some of its types bring their own rules for cutting text, whatever tokenizer.json says.
    """
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(tokenizer, name, dirs_exist_ok=True)
        config.save_pretrained(name)
        try:
            both = [load_wrapped(folder) for folder in (tokenizer, Path(name))]
        except UserError:
            return False
    alone, beside = (json.loads(one.backend_tokenizer.to_str()) for one in both)
    return all(alone[part] == beside[part] for part in ("normalizer", "pre_tokenizer", "model"))


def _require_json(path: Path) -> None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"data.tokenizer: {path} is no readable tokenizer.json: {error}") from error
    if not isinstance(found, dict) or "model" not in found:
        raise UserError(
            f"data.tokenizer: {path} is no tokenizer.json: it describes no model; give the right file"
        )
