"""Documents out of files of token ids: raw ones such as nanoGPT's, .npy arrays, and llm.c's with their header."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer.runs.data.pieces import Cursor, Ids, Piece, Place
from verification.errors import UserError

PIECE_TOKENS = 1 << 20
_NPY = b"\x93NUMPY"
_LLM_C = {20240520: "<u2", 20240801: "<u4"}
"""The first number of a header of llm.c, and what its tokens are."""
_LLM_C_HEADER = 1024


@dataclass(frozen=True)
class TokenFiles:
    """Ids in files that follow each other: one document, or as many as a token that ends them makes.

    Raw files hold little-endian numbers of `dtype`. Every id is below `vocabulary`.
    """

    name: str
    files: tuple[Path, ...]
    dtype: str
    vocabulary: int
    ending: int | None

    def pieces(self, start: Cursor) -> Iterator[Piece[Ids]]:
        """Yield pieces, without the tokens that end documents; raises UserError with file and token."""
        begun = start.inside
        for index in range(start.file, len(self.files)):
            path, offset = self.files[index], start.offset if index == start.file else 0
            tokens = self._tokens(path)
            for low in range(offset, len(tokens), PIECE_TOKENS):
                part = tokens[low : low + PIECE_TOKENS].astype(np.int64)
                self._check(part, path, low)
                place = Place(str(path), "token", low)
                for ids, ends, used in self._cut(part):
                    begun = begun or len(ids) > 0
                    if begun:
                        yield Piece(ids, ends, place, Cursor(index, low + used, 0, not ends))
                    begun = begun and not ends
        if begun:
            yield Piece(np.empty(0, np.int64), True, Place(self.name, "file", len(self.files)), None)

    def _cut(self, part: Ids) -> Iterator[tuple[Ids, bool, int]]:
        """Yield ids, whether a document ends behind them, and how many are used up by then."""
        low = 0
        if self.ending is not None:
            for place in np.flatnonzero(part == self.ending).tolist():
                yield part[low:place], True, place + 1
                low = place + 1
        if low < len(part):
            yield part[low:], False, len(part)

    def _check(self, part: Ids, path: Path, low: int) -> None:
        strange = (part < 0) | (part >= self.vocabulary)
        if strange.any():
            place = int(np.argmax(strange))
            raise UserError(
                f"{Place(str(path), 'token', low + place)} is {part[place]}, and the model knows {self.vocabulary} "
                "ids, from 0: raise model.config.vocab_size, or correct data.token_dtype or the file"
            )

    def _tokens(self, path: Path) -> np.ndarray[Any, Any]:
        """Return a file's numbers, mapped; raises UserError."""
        try:
            with path.open("rb") as file:
                head, size = file.read(_LLM_C_HEADER), path.stat().st_size
            if head.startswith(_NPY):
                return self._npy(path)
            magic, version, count = np.frombuffer(head.ljust(12, b"\0")[:12], "<i4").tolist()
            if magic in _LLM_C and version == 1 and size > _LLM_C_HEADER:
                kind, skip = np.dtype(_LLM_C[magic]), _LLM_C_HEADER
                fits = size == skip + count * kind.itemsize
            else:
                kind, skip = np.dtype(self.dtype).newbyteorder("<"), 0
                fits = size % kind.itemsize == 0
        except OSError as error:
            raise UserError(f"{path}: cannot be read: {error.strerror}; correct the path") from error
        if not fits:
            raise UserError(
                f"{path}: {size} bytes are no whole number of tokens of {kind.itemsize} bytes: the file is cut short, "
                "or data.token_dtype is another"
            )
        if size == skip:
            return np.empty(0, kind)
        return np.memmap(path, kind, "r", offset=skip)

    @staticmethod
    def _npy(path: Path) -> np.ndarray[Any, Any]:
        try:
            tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise UserError(f"{path}: no readable .npy file: {error}; write it again") from error
        if not isinstance(tokens, np.ndarray) or tokens.ndim != 1 or tokens.dtype.kind not in "ui":
            raise UserError(
                f"{path}: has {tokens.dtype} {list(tokens.shape)}, but tokens are one row of integers"
            )
        return tokens
