"""The same training, bit for bit, under every thread count, vector width and MKL mode that this machine has."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import zoo
from trainer.programs.conversion import bundle_of
from verification import codec
from verification.program import encode_program

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MATRIX = list(itertools.product((1, 2), ("default", "avx2", "avx512"), (None, "COMPATIBLE")))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Programs, start state and data of both models as files, traced once."""
    made = []
    for kind in ("llama", "gpt2"):
        folder = tmp_path_factory.mktemp(kind)
        run = zoo.traced(kind)
        for name in ("prologue", "inner", "epilogue", "outer"):
            (folder / name).write_bytes(encode_program(getattr(run, name)))
        (folder / "start").write_bytes(codec.encode(run.start))
        (folder / "inputs").write_bytes(codec.encode(bundle_of([zoo.records(kind), zoo.index(kind)])))
        made.append(folder)
    return made


def _digests(folders: list[Path], threads: int, width: str | None, mkl: str | None) -> list[list[str]]:
    settings = {"ATEN_CPU_CAPABILITY": width, "MKL_CBWR": mkl, "PYTHONPATH": str(ROOT)}
    environment = {key: value for key, value in os.environ.items() if key not in settings}
    # Waiting threads must not spin: the machine may be busy.
    environment["OMP_WAIT_POLICY"] = "PASSIVE"
    environment |= {key: value for key, value in settings.items() if value is not None}
    child = Path(__file__).with_name("digest_child.py")
    command = [sys.executable, str(child), str(threads), *map(str, folders)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    capability, digests = json.loads(done.stdout)
    # A guard of the matrix: narrower code than the machine's own must really have run.
    assert width in (None, "avx512") or capability == width.upper()
    result: list[list[str]] = digests
    return result


@pytest.fixture(scope="module")
def reference(folders: list[Path]) -> list[list[str]]:
    """The digests under one thread and default settings."""
    return _digests(folders, 1, None, None)


@pytest.mark.parametrize(("threads", "width", "mkl"), MATRIX)
def test_training_gives_the_same_digests(
    folders: list[Path], reference: list[list[str]], threads: int, width: str | None, mkl: str | None
) -> None:
    found = _digests(folders, threads, width, mkl)
    for kind, expected, digests in zip(("llama", "gpt2"), reference, found, strict=True):
        different = [
            place for place, pair in enumerate(zip(expected, digests, strict=True)) if len(set(pair)) > 1
        ]
        assert not different, f"{kind}: digests {different[:5]} of {len(expected)} differ"


def test_digests_depend_on_the_data(reference: list[list[str]]) -> None:
    """A guard of the matrix itself: digests that never change would agree everywhere too."""
    assert all(len(set(digests)) > 100 for digests in reference)
