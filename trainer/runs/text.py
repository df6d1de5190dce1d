"""Text as training records: bytes are tokens, a record is `length` tokens and the one that follows."""

import pydoc_data.topics
from pathlib import Path

from verification.errors import UserError
from verification.tensors import Tensor
from verification.units import Count

MIN_RECORDS = 16


def read_text(path: Path) -> bytes:
    """Return a text file's bytes; raises UserError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot read the training text: {error.strerror}; correct the path"
        ) from error


def python_reference() -> bytes:
    """Return the Python language reference that CPython carries (about 460 kB)."""
    topics = pydoc_data.topics.topics
    return "\n\n".join(topics[name].strip() for name in sorted(topics)).encode()


def records_of(data: bytes, length: int, held_out: float) -> tuple[Tensor, Tensor]:
    """Return training and held-out records, uint8 [n, length + 1] each; the held-out ones are the text's end.

    Raises UserError when the text is too short.
    """
    count = (len(data) - 1) // length
    kept = round(count * held_out)
    if count - kept < MIN_RECORDS or kept < 1:
        raise UserError(
            f"the text of {len(data)} bytes is too short: it needs {MIN_RECORDS + 1} records of {length} bytes"
        )
    rows = [data[i * length : i * length + length + 1] for i in range(count)]
    return _tensor(rows[: count - kept], length + 1), _tensor(rows[count - kept :], length + 1)


def _tensor(rows: list[bytes], width: int) -> Tensor:
    return Tensor("uint8", (Count(len(rows)), Count(width)), b"".join(rows))
