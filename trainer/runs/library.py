"""A run's programs, read from a store of blobs: what the law looks them up in."""

from p2p.blobs import BlobStore
from verification.errors import Malformed, Unavailable
from verification.manifest import Manifest
from verification.program import Program, decode_program, digest_of_program
from verification.units import Digest


def published(manifest: Manifest) -> tuple[Digest, ...]:
    """Return the blobs that a submitter publishes with a run: data and programs, then the start state."""
    return manifest.data.blob, *(program.blob for program in manifest.all_programs()), manifest.start.blob


class StoredPrograms:
    """The programs of one run by digest, each read and checked on its first use."""

    def __init__(self, store: BlobStore, manifest: Manifest) -> None:
        """Look for the manifest's programs in `store`."""
        self._store = store
        self._blobs = {ref.digest: ref.blob for ref in manifest.all_programs()}
        self._programs: dict[Digest, Program] = {}

    def program(self, digest: Digest) -> Program:
        """Return a program of the run; raises Unavailable for another, Malformed for bytes that are not it."""
        if digest not in self._programs:
            if digest not in self._blobs:
                raise Unavailable(f"the run has no program {digest.hex()}")
            program = decode_program(self._store.get(self._blobs[digest]))
            if digest_of_program(program) != digest:
                raise Malformed("a program's blob has another digest than the manifest says")
            self._programs[digest] = program
        return self._programs[digest]
