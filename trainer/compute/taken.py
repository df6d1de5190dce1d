"""What a member of a crew took in its rounds, on its disk: for a dispute it is judged on that, also after a restart.

One file a round, a canonical bundle a step, whole on the disk before anything of the round is signed. (SPEC.md 4.17)
"""

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from p2p.blobs import sync, sync_folder
from verification.errors import Malformed, NoRoom, Unavailable
from verification.program import Port, encoded_size
from verification.tensors import Bundle, Tensor, decode_bundle, encoded
from verification.units import Round

DRAFT = ".draft"


class TakenFiles:
    """The files of one peer, in a folder of its own."""

    def __init__(self, folder: Path, forms: Sequence[Port]) -> None:
        """`forms` are what is taken in each step, in the cut's order."""
        self._folder, self._forms = folder, tuple(forms)
        self._size = encoded_size(self._forms) if forms else 0

    def has(self, number: Round, steps: int) -> bool:
        """Return whether all that was taken in a round of so many steps is here."""
        path = self._path(number)
        return path.exists() and path.stat().st_size == steps * self._size

    def writing(self, number: Round) -> "Writing":
        """Return what writes a round's file, in the place of what a crash has left."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Writing(self._path(number), len(self._forms))

    def reader(self, number: Round) -> Callable[[int], Sequence[Tensor]]:
        """Return what gives the tensors taken in a step (from 1) of a round.

        It raises Unavailable where they are not here, or damaged.
        """
        path = self._path(number)

        def taken(step: int) -> Sequence[Tensor]:
            if not self._forms:
                return ()
            try:
                with path.open("rb") as file:
                    data = os.pread(file.fileno(), self._size, (step - 1) * self._size)
                return decode_bundle(data, self._size).tensors
            except (OSError, Malformed) as error:
                raise Unavailable(f"{path}: what was taken in step {step} cannot be read: {error}") from error

        return taken

    def _path(self, number: Round) -> Path:
        return self._folder / str(int(number))


def forget_taken(folder: Path, keep: Collection[Round]) -> None:
    """Delete the files of all other rounds, those that a crash left unfinished among them."""
    names = {str(int(number)) for number in keep}
    for path in folder.glob("*"):
        if path.name.removesuffix(DRAFT) not in names:
            with suppress(FileNotFoundError):
                path.unlink()


class Writing:
    """A round's file that is being written; leaving it early leaves nothing that counts."""

    def __init__(self, path: Path, width: int) -> None:
        """`width` tensors are taken in each step."""
        self._path, self._width = path, width
        self._draft = path.with_name(path.name + DRAFT)
        self._file = self._draft.open("wb")
        self._step: dict[int, Tensor] = {}

    def add(self, place: int, tensor: Tensor) -> None:
        """Write down what was taken as number `place` of a step, in whatever order it comes; raises NoRoom."""
        self._step[place] = tensor
        if len(self._step) < self._width:
            return
        bundle = Bundle(tuple(self._step[place] for place in range(self._width)))
        self._step.clear()
        try:
            for part in encoded(bundle):
                self._file.write(part)
        except OSError as error:
            raise NoRoom(f"{self._draft}: {error.strerror}; free space on its disk") from error

    def finish(self) -> None:
        """Have the file on the disk for good; raises NoRoom."""
        try:
            sync(self._file)
        except OSError as error:
            raise NoRoom(f"{self._draft}: {error.strerror}; free space on its disk") from error
        self._draft.replace(self._path)
        sync_folder(self._path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
