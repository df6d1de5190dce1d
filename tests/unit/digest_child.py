"""Run by test_digest_matrix in a process of its own: trains on the programs in a folder and prints every digest.

Imports neither transformers nor the tracer, as an auditor's machine would not.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch

from trainer.programs.conversion import bundle_of, to_torch
from trainer.programs.interpreter import LoadedProgram
from verification.program import decode_program
from verification.tensors import decode_bundle, digest_of

LIMIT = 1 << 28
STEPS = 3


def train(folder: Path) -> list[str]:
    """Return the digests of prologue, three inner steps, epilogue and outer step, and of the first step's nodes."""
    names = ("prologue", "inner", "epilogue", "outer")
    programs = {name: LoadedProgram(decode_program((folder / name).read_bytes())) for name in names}
    start, inputs = (decode_bundle((folder / name).read_bytes(), LIMIT) for name in ("start", "inputs"))
    state = [to_torch(tensor) for tensor in start.tensors]
    working = programs["prologue"].run(state + [to_torch(tensor) for tensor in inputs.tensors])
    digests = [digest_of(bundle_of(working)).hex()]
    programs["inner"].run(working, lambda number, made: digests.append(_hash(made)))
    for _ in range(STEPS):
        working = programs["inner"].run(working)
        digests.append(digest_of(bundle_of(working)).hex())
    contribution = programs["epilogue"].run(state + working)
    digests.append(digest_of(bundle_of(contribution)).hex())
    weights = torch.tensor([2, 0, 3])
    digests.append(digest_of(bundle_of(programs["outer"].run([*state, *contribution * 3, weights]))).hex())
    return digests


def _hash(value: torch.Tensor) -> str:
    """A plain hash of one node's tensor, quicker than its Merkle digest; -0.0 + 0 is +0.0."""
    return hashlib.sha256((value + 0).contiguous().numpy().tobytes()).hexdigest()


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    digests = [train(Path(folder)) for folder in sys.argv[2:]]
    print(json.dumps([torch.backends.cpu.get_cpu_capability(), digests]))
