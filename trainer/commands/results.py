"""What a command found, as JSON for programs."""

import json
from pathlib import Path

from verification.errors import UserError


def write_json(file: Path, found: object) -> None:
    """Write what a command found; raises UserError where it cannot."""
    try:
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{file}: cannot write there: {error.strerror}; choose another file") from error
