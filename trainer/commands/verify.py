"""`verify`: does a file of evidence convict, of what, and what does it ask to be taken on trust?"""

import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from p2p.blobs import BlobStore
from trainer.commands.console import Console
from trainer.folder import RunFolder
from trainer.runs.ledgers import genesis_of, open_ledger
from trainer.runs.library import StoredPrograms
from verification.errors import Unavailable, UserError, Violation
from verification.evidence.collect import require_borne_out
from verification.evidence.file import MAX_EVIDENCE, Conviction, Finding, unpack
from verification.evidence.retrial import verify
from verification.ledger.heads import Forked, is_fork, unpack_fork, verify_fork
from verification.report.judged import report_of
from verification.report.words import last_step, one_line, printable, reason, trust
from verification.signing import checksum

PROVEN, REFUSED, RESTS = 0, 1, 3
"""Exit statuses: the file proves it by itself, or with the run's ledger; it proves nothing; it rests on a ledger that
was not there to check. A user's mistake is 2, as everywhere."""

MAX_NAMES, MAX_NAME = 8, 80
"""Names of ports that are told, and letters of each: they are the program's author's."""

Ledger = Callable[[Conviction], None]
"""Raises BadEvidence unless a run's ledger bears out what a conviction takes on trust."""


def check_files(paths: Sequence[Path], run: Path | None = None) -> int:
    """Print what each file proves, those of a folder included; return the gravest status: 1, then 3, then 0.

    With a run's folder, what rests on the ledger is checked against its log. Raises UserError.
    """
    console, ledger = Console(), None if run is None else _ledger_of(RunFolder(run).checked())
    files = [file for path in paths for file in _files_in(path)]
    statuses = set()
    for file in files:
        status, lines = _checked(_read(file), ledger)
        if len(files) > 1:
            console.print(printable(f"{file}:"))
        for line in lines:
            console.print(printable(line), style="red" if status == REFUSED else None)
        statuses.add(status)
    return next(status for status in (REFUSED, RESTS, PROVEN) if status in statuses)


def _checked(data: bytes, ledger: Ledger | None) -> tuple[int, list[str]]:
    """Return the status of a file's bytes, and what to say of them."""
    try:
        if is_fork(data):
            return PROVEN, _lines_of_fork(verify_fork(unpack_fork(data)))
        finding = verify(data)
        if finding.is_proven:
            return PROVEN, [f"guilty: {checksum(finding.accused)}", *_lines_of(finding)]
        if ledger is None:
            return RESTS, [f"rests on the ledger: {checksum(finding.accused)}", *_lines_of(finding)]
        ledger(unpack(data))
        return PROVEN, [f"guilty: {checksum(finding.accused)}, by the run's ledger", *_lines_of(finding)]
    except (Violation, Unavailable) as refusal:
        return REFUSED, [f"refused: {one_line(str(refusal))}"]


def _lines_of_fork(found: Forked) -> list[str]:
    """Return in lines for people what a fork proves."""
    told = zip(found.heads, found.times, strict=True)
    return [
        f"forked: {checksum(found.host)} served two logs of one run",
        f"  of      entry {found.seq} of run {found.run.hex()}",
        *(f"  told    {head.hex()} at {at} ms of the ledger's time" for head, at in told),
        "  trusts  nothing: the file proves it by what the host itself signed",
    ]


def _ledger_of(folder: RunFolder) -> Ledger:
    """Return how a run's ledger, folded with every verdict given again, answers."""
    library = StoredPrograms(BlobStore(folder.blobs), genesis_of(folder).manifest)
    ledger = open_ledger(folder, library)
    state, entries = ledger.state, ledger.entries()
    ledger.close()
    statements = [entry.data for entry in entries if entry.kind == "statement"]
    effects = [effect for entry in entries for effect in entry.effects]
    return lambda conviction: require_borne_out(conviction, state, statements, effects, library.program)


def _lines_of(finding: Finding) -> list[str]:
    """Return a finding in lines for people, but for whom it is about."""
    where = f"inner step {finding.step}" if finding.step is not None else finding.place
    round_and_place = f"round {finding.round}" + (f", {where}" if where else "")
    lines = [f"  of      {round_and_place} of run {finding.run.hex()}"]
    if finding.node is not None:
        lines.append(f"  node    {finding.node}, {finding.operator}")
    if finding.names:
        told = [one_line(name)[:MAX_NAME] for name in finding.names[:MAX_NAMES]]
        lines.append(f"  at      {', '.join(told)}{', ...' if len(finding.names) > MAX_NAMES else ''}")
    lines.append(f"  because {reason(finding.reason)}")
    if finding.claimed is not None and finding.computed is not None:
        lines += [f"  claimed {finding.claimed.hex()}", f"  is      {finding.computed.hex()}"]
    if (found := finding.number) is not None:
        last = last_step(report_of(found.claim, found.result, found.right))
        lines += [f"  {label:<7} {text}" for label, text in last]
    taken = trust(finding) or ("nothing: the file proves it by what the accused itself signed",)
    return lines + [f"  trusts  {line}" for line in taken]


def _files_in(path: Path) -> list[Path]:
    """Return a file, or those of a folder of evidence or of a run; raises UserError for a folder without any."""
    if not path.is_dir():
        return [path]
    found = sorted(path.glob("*.evidence")) or sorted(RunFolder(path).evidence.glob("*.evidence"))
    if not found:
        raise UserError(f"{path} holds no evidence: nobody was convicted, or 'proofswarm report' was not run")
    return found


def _read(path: Path) -> bytes:
    """Return a file's bytes; raises UserError for what is no file or too large."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is no plain file: give a file of a run's evidence folder")
        with path.open("rb") as file:
            data = file.read(MAX_EVIDENCE + 1)
    except OSError as error:
        raise UserError(
            f"{path}: cannot read it: {error.strerror}; give a file of a run's evidence folder"
        ) from error
    if len(data) > MAX_EVIDENCE:
        raise UserError(f"{path} is larger than any evidence: give a file of a run's evidence folder")
    return data
