"""Precision is a choice of the run: in the job, in every product of the program, in the report."""

from pathlib import Path

import pytest

from p2p.blobs import BlobStore
from tests import zoo
from tests.tiny import make_run
from trainer.commands.report import precision_of, read_report
from trainer.runs.create import Created
from verification.program import Program, decode_program

pytestmark = pytest.mark.slow


def _bits(program: Program) -> set[int]:
    return {dict(node.attributes)["bits"][0] for node in program.nodes if "bits" in dict(node.attributes)}


@pytest.mark.parametrize("bits", [8, 14])
def test_every_product_of_the_program_has_the_precision(bits: int) -> None:
    inner = zoo.traced("llama", bits).inner
    operators = {node.operator for node in inner.nodes if "bits" in dict(node.attributes)}
    assert (_bits(inner), operators) == ({bits}, {"quantise", "product"})
    assert precision_of(inner) == f"{bits} bits"


def test_fewer_bits_change_the_losses_a_little() -> None:
    """At 8 bits the model takes other steps than at 14, and learns all the same."""
    losses = {bits: zoo.exact_losses("llama", 8, bits) for bits in (8, 14)}
    assert losses[8] != losses[14]
    assert losses[8][0] == pytest.approx(losses[14][0], rel=0.01)
    for found in losses.values():
        assert found[-1] < found[0] - 0.2


def test_the_report_shows_the_precision(tiny_run: Created) -> None:
    assert read_report(tiny_run.folder).parameters["precision"] == "14 bits"


def test_a_job_of_8_bits_makes_another_program(tiny_run: Created, tmp_path: Path) -> None:
    made = make_run(tmp_path, {"training.precision": 8})
    reference = made.manifest.programs.inner
    assert reference.digest != tiny_run.manifest.programs.inner.digest
    assert _bits(decode_program(BlobStore(made.folder.blobs).get(reference.blob))) == {8}
    assert made.manifest.golden != tiny_run.manifest.golden
