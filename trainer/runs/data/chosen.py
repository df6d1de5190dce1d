"""What a job's [data] asks for: which source and tokenizer, and where its records are made."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2p.lists import MAX_BLOB_BYTES
from trainer.runs.data.columns import DatasetFolder, ParquetFiles, dataset_files
from trainer.runs.data.files import named
from trainer.runs.data.prepare import Plan, Preparation, Prepared, Tell
from trainer.runs.data.texts import Builtin, JsonLines, TextFiles
from trainer.runs.data.token_files import TokenFiles
from trainer.runs.data.tokenizing import ByteTokenizer, Tokenizer, Vocabulary, read_tokenizer
from trainer.runs.job import DataSection
from verification.errors import UserError
from verification.sizes import most_records

KEPT_BYTES = 1 << 26
"""Records of fewer bytes are made anew rather than kept: that takes seconds."""

_DTYPES = ((256, "uint8"), (1 << 15, "int16"), (1 << 31, "int32"))
"""The smallest dtype of the law that holds so many ids."""

TextSource = TextFiles | JsonLines | ParquetFiles | DatasetFolder | Builtin


def chosen_tokenizer(data: DataSection, base: Path) -> Tokenizer | None:
    """Return what encodes a job's data, by default its bytes; None for token files alone. Raises UserError."""
    if data.tokenizer is not None:
        return read_tokenizer(base / data.tokenizer, data.special_tokens)
    return None if data.tokens is not None else ByteTokenizer()


def vocabulary_of(data: DataSection, tokenizer: Tokenizer | None, rows: int) -> Vocabulary:
    """Return a job's ids where the model's embedding has so many rows; raises UserError where it has too few."""
    known = Vocabulary(rows, None, None) if tokenizer is None else tokenizer.vocabulary
    if known.size > rows:
        raise UserError(
            f"data.tokenizer: ids go up to {known.size - 1}, but the model's embedding has {rows} rows: give it at "
            f"least {known.size} (model.config.vocab_size)"
        )
    separator = _separator(data, tokenizer, known)
    if separator is not None and not 0 <= separator < rows:
        raise UserError(f"data.separator: {separator} is no token of a model with {rows}: name another")
    return Vocabulary(known.size, separator, known.mask)


def _separator(data: DataSection, tokenizer: Tokenizer | None, known: Vocabulary) -> int | None:
    if data.separator is None:
        if known.separator is None and data.tokenizer is not None and data.tokens is None:
            raise UserError(
                f"data.tokenizer: {data.tokenizer} tells no end of text: give its token with data.separator, or ''"
            )
        return known.separator
    if isinstance(data.separator, int) or not data.separator:
        return None if data.separator == "" else int(data.separator)
    found = None if tokenizer is None else tokenizer.token(data.separator)
    if found is None:
        raise UserError(
            f"data.separator: {data.separator!r} is no token of the tokenizer: name one, or its number, or '' for none"
        )
    return found


def plan_of(data: DataSection, seed: int, base: Path, tokenizer: Tokenizer | None, known: Vocabulary) -> Plan:
    """Return how a job's text or tokens become records; raises UserError for files that are not there."""
    dtype = next(name for size, name in _DTYPES if known.size <= size)
    return Plan(
        _source(data, base, known), None if data.tokens is not None else tokenizer, known.separator,
        data.packing == "packed", data.length, data.held_out, seed, dtype,
        most_records(data.length + 1, dtype, MAX_BLOB_BYTES),
    )  # fmt: skip


def _source(data: DataSection, base: Path, known: Vocabulary) -> TextSource | TokenFiles:
    key, name = data.source, f"data.{data.source}"
    match key:
        case "builtin":
            return Builtin()
        case "text":
            files = named(data.text or "", base, key)
            return TextFiles(name, files, (data.delimiter or "").encode())
        case "json_lines":
            return JsonLines(name, named(data.json_lines or "", base, key), data.field)
        case "parquet":
            return ParquetFiles(name, named(data.parquet or "", base, key), data.field)
        case "dataset":
            return DatasetFolder(name, dataset_files(base / str(data.dataset)), data.field)
    files = named(data.tokens or "", base, key)
    return TokenFiles(name, files, data.token_dtype, known.size, known.separator)


@contextmanager
def prepared(plan: Plan, beside: Path, tell: Tell) -> Iterator[Prepared]:
    """Give a plan's records, made in a hidden folder in `beside` that goes at the end, unless they are many.

    The folder's name is a digest of the plan, the tokenizer, and names, sizes and times of change of all files: who
    asks for the same again, after an end of any kind, goes on there. Raises UserError.
    """
    folder = beside / f".data-{_key(plan)[:16]}"
    with _alone(folder):
        try:
            yield _made(plan, folder, tell)
        finally:
            _leave(folder, tell)


def _made(plan: Plan, folder: Path, tell: Tell) -> Prepared:
    try:
        return Preparation(plan, folder, tell).run()
    except OSError as error:
        raise UserError(
            f"{folder}: the data cannot be written: {error.strerror}; the same command goes on where it stopped"
        ) from error


def _key(plan: Plan) -> str:
    files = [
        (str(path), (stat := path.stat()).st_size, stat.st_mtime_ns)
        for path in getattr(plan.source, "files", ())
    ]
    tokenizer = "" if plan.tokenizer is None else plan.tokenizer.identity
    rules = plan.separator, plan.packed, plan.length, plan.held_out, plan.seed, plan.dtype
    return hashlib.sha256(repr((plan.source, files, tokenizer, rules)).encode()).hexdigest()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make a folder and hold it; raises UserError where that cannot be, or another process has it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UserError(
            f"{folder.parent}: cannot write there: {error.strerror}; choose another folder with --out"
        ) from error
    try:
        _lock(held, folder)
        yield
    finally:
        os.close(held)


def _lock(held: int, folder: Path) -> None:
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise UserError(
            f"{folder} is held by another process that prepares the same data: wait for it, or choose another --out"
        ) from error


def _leave(folder: Path, tell: Tell) -> None:
    """Delete what was made, unless it took long."""
    size = sum(path.stat().st_size for path in folder.iterdir())
    if size < KEPT_BYTES:
        shutil.rmtree(folder)
    else:
        tell(f"the prepared data stay in {folder} ({size / 1e9:.1f} GB) for the next run: delete it at will")
