"""`verify`: does a file of evidence convict, of what, and what does it ask to be taken on trust?"""

from collections.abc import Sequence
from pathlib import Path

from trainer.commands.console import Console
from verification.errors import Unavailable, UserError, Violation
from verification.evidence.file import MAX_EVIDENCE, Finding
from verification.evidence.retrial import verify
from verification.program import Node, Program
from verification.report.words import printable, reason
from verification.signing import checksum
from verification.tensors import Tensor
from verification.units import Digest


class LazyExecutor:
    """Loads torch and the interpreter only when a file asks for a node to be executed."""

    def program(self, digest: Digest) -> Program:
        """Evidence brings the nodes it needs; raises Unavailable."""
        raise Unavailable(f"there is no program {digest.hex()} outside the file")

    def execute_node(self, arithmetic: str, number: int, node: Node, inputs: Sequence[Tensor]) -> Tensor:
        """Return what the node makes; raises as `ProgramExecutor.execute_node`."""
        from trainer.programs.executor import ProgramExecutor

        return ProgramExecutor({}).execute_node(arithmetic, number, node, inputs)


def check_file(path: Path) -> int:
    """Print what a file proves and return 0, or in one line why it proves nothing and return 1. Raises UserError."""
    console = Console()
    data = _read(path)
    try:
        finding = verify(data, LazyExecutor())
    except (Violation, Unavailable) as refusal:
        console.print(f"refused: {printable(str(refusal))}", style="red")
        return 1
    for line in lines_of(finding):
        console.print(printable(line))
    return 0


def lines_of(finding: Finding) -> list[str]:
    """Return a finding in lines for people."""
    where = f"inner step {finding.step}" if finding.step is not None else finding.place
    round_and_place = f"round {finding.round}" + (f", {where}" if where else "")
    lines = [
        f"guilty: {checksum(finding.accused)}",
        f"  of      {round_and_place} of run {finding.run.hex()}",
    ]
    if finding.node is not None:
        lines.append(f"  node    {finding.node}, {finding.operator}")
    if finding.names:
        lines.append(f"  at      {', '.join(finding.names)}")
    lines.append(f"  because {reason(finding.reason)}")
    if finding.claimed is not None and finding.computed is not None:
        lines += [f"  claimed {finding.claimed.hex()}", f"  is      {finding.computed.hex()}"]
    trust = finding.trust or ("nothing: the file proves it by what the accused itself signed",)
    return lines + [f"  trusts  {line}" for line in trust]


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_EVIDENCE:
            raise UserError(f"{path} is larger than any evidence: give a file of a run's evidence folder")
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path}: cannot read it: {error.strerror}; give a file of a run's evidence folder"
        ) from error
