"""`report`: fold a run's ledger and events into report.json and report.html, and print it."""

import json
from dataclasses import replace
from pathlib import Path

from p2p.blobs import BlobStore
from trainer.commands.console import Console
from trainer.events import read_lines
from trainer.folder import RunFolder
from trainer.runs.ledgers import genesis_of, open_ledger, verify_log
from trainer.runs.library import StoredPrograms
from verification.errors import UserError
from verification.evidence.collect import Log, convictions
from verification.evidence.file import pack
from verification.ledger.port import Ledger
from verification.program import Program
from verification.report.build import build_report
from verification.report.descent import descents
from verification.report.encoding import to_json
from verification.report.html import render
from verification.report.schema import Report
from verification.report.terminal import tables
from verification.state import State


def read_ledger(folder: RunFolder) -> Ledger:
    """Return a run's ledger, folded with every verdict given again; raises UserError."""
    return open_ledger(folder, StoredPrograms(BlobStore(folder.blobs), genesis_of(folder).manifest))


def read_state(folder: RunFolder) -> State:
    """Return what a run's ledger says as it stands; raises UserError."""
    ledger = read_ledger(folder)
    try:
        return ledger.state
    finally:
        ledger.close()


def read_report(folder: RunFolder) -> Report:
    """Return the report of a run; the ledger's chain is checked and every verdict given again. Raises UserError."""
    return _read(folder)[0]


def _read(folder: RunFolder) -> tuple[Report, dict[str, bytes]]:
    """Return the report of a run and a file of evidence for each conviction, by name."""
    verify_log(folder)
    manifest = genesis_of(folder).manifest
    library = StoredPrograms(BlobStore(folder.blobs), manifest)
    ledger = open_ledger(folder, library)
    try:
        entries = ledger.entries()
        logs = {path.stem: list(read_lines(path)) for path in sorted(folder.events.glob("*.jsonl"))}
        effects = [(entry.at, effect) for entry in entries for effect in entry.effects]
        statements = [entry.data for entry in entries if entry.kind == "statement"]
        ways = descents(ledger.state, Log.read(statements), library.program)
        report = build_report(ledger.state, effects, logs, entries[0].at, ways)
        precision = precision_of(library.program(manifest.programs.inner.digest))
        found = convictions(ledger.state, statements, [effect for _, effect in effects], library.program)
        evidence = {name: pack(conviction) for name, conviction in found.items()}
        return replace(report, parameters=report.parameters | {"precision": precision}), evidence
    finally:
        ledger.close()


def precision_of(program: Program) -> str:
    """Return the bits of a program's products, for people: "14 bits"; "none" for a program without products."""
    bits = {dict(node.attributes)["bits"][0] for node in program.nodes if node.operator == "product"}
    return " and ".join(f"{number} bits" for number in sorted(bits)) or "none"


def write_report(folder: RunFolder) -> Report:
    """Write report.json, report.html and the evidence into the run's folder and return the report."""
    report, evidence = _read(folder)
    _write(folder.path / "report.json", (json.dumps(to_json(report), indent=1) + "\n").encode())
    _write(folder.path / "report.html", render(report).encode())
    for name, data in evidence.items():
        _write(folder.evidence / f"{name}.evidence", data)
    return report


def print_report(report: Report) -> None:
    """Print a report at length."""
    Console().print(tables(report))


def _write(path: Path, data: bytes) -> None:
    draft = path.with_name(f".{path.name}.draft")
    try:
        path.parent.mkdir(exist_ok=True)
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        raise UserError(
            f"{path}: cannot write the report: {error.strerror}; check the folder's owner"
        ) from error
