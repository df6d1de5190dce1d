"""Rows, table and summary of `bench wan`, of what was measured. No processes, no files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from benchmarks.opponents.course import Trained

Row = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """One opponent over links of `mbit`, which carried `carried`: what a formula said, and what it did.

    `trained` is None where peers never began, `failure` says in a line what went wrong, `left_out` is how many
    contributions of ours did not count.
    """

    plan: Mapping[str, Any]
    opponent: str
    mbit: float
    carried: float
    predicted: float | None
    trained: Trained | None
    is_whole: bool
    failure: str
    held_out: float | None
    left_out: int


def rows_of(measured: Sequence[Measured]) -> list[Row]:
    """Return a row for each; losses at equal time are those at which the quickest over the same links was done."""
    rows = []
    for each in measured:
        beside = [one.trained for one in measured if one.mbit == each.mbit and one.is_whole and one.trained]
        rows.append(_row(each, min((one.last[0] for one in beside), default=None)))
    return rows


def _row(each: Measured, quickest: float | None) -> Row:
    trained = each.trained
    row: Row = {
        **each.plan,
        "opponent": each.opponent,
        "mbit": each.mbit,
        "carried_mbit": round(each.carried, 2),
        "predicted_tokens_per_second": _rounded(each.predicted, 1),
        "is_whole": each.is_whole,
        "failure": each.failure,
        "contributions_left_out": each.left_out,
        "loss_held_out": each.held_out,
    }
    if trained is None:
        return row | dict.fromkeys(FIGURES)
    seconds, steps = trained.last
    return row | {
        "tokens_per_second": trained.rate if steps else None,
        "utilisation": trained.utilisation if steps else None,
        "bytes_per_token": trained.bytes_per_token,
        "sent_bytes": trained.sent,
        "received_bytes": trained.received,
        "tokens": steps * trained.tokens,
        "tokens_wanted": trained.wanted * len(trained.courses) * trained.tokens,
        "seconds": seconds,
        "of_step_really": trained.really,
        "overrun": trained.overrun,
        "loss_equal_tokens": trained.loss_after() if each.is_whole else None,
        "loss_equal_time": None if quickest is None else trained.loss_after(quickest),
        "equal_time": quickest,
    }


FIGURES = (
    "tokens_per_second", "utilisation", "bytes_per_token", "sent_bytes", "received_bytes", "tokens", "tokens_wanted",
    "seconds", "of_step_really", "overrun", "loss_equal_tokens", "loss_equal_time", "equal_time",
)  # fmt: skip
"""What a row says of a training that began."""


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Return the figures that count; None for what was not measured.

    Of ours the variant with the most tokens a second over the slowest link stands for all, its `choice`.
    """
    found = {(row["opponent"], row["mbit"]): row for row in rows}

    def of(opponent: str | None, mbit: float, name: str) -> Any:
        return found.get((opponent, mbit), {}).get(name)

    ours = [row for row in rows if row["opponent"].startswith("ours")]
    quickest = max(ours, key=lambda row: (-row["mbit"], row["tokens_per_second"] or 0.0), default=None)
    choice = None if quickest is None else str(quickest["opponent"])

    def speedup(opponent: str) -> float | None:
        own, other = (of(name, 10, "tokens_per_second") for name in (choice, opponent))
        return None if not own or not other else round(own / other, 2)

    bytes_per_token = [
        row["bytes_per_token"] for row in rows if row["opponent"] == choice and row["bytes_per_token"]
    ]
    return {
        "choice": choice,
        "utilisation_100mbit": _rounded(of(choice, 100, "utilisation")),
        "utilisation_50mbit": _rounded(of(choice, 50, "utilisation")),
        "utilisation_10mbit": _rounded(of(choice, 10, "utilisation")),
        "speedup_ddp_10mbit": speedup("ddp"),
        "speedup_hivemind_10mbit": speedup("hivemind"),
        "speedup_torchft_10mbit": speedup("torchft"),
        "bytes_per_token": _rounded(max(bytes_per_token, default=None), 1),
    }


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None else round(value, digits)


def line_of(row: Row) -> str:
    """Return a row in one line for people."""
    if not row["tokens_per_second"]:
        return f"{row['opponent']}, {row['mbit']:g} Mbit/s: no tokens: {row['failure'] or 'stopped'}"
    return (
        f"{row['opponent']}, {row['mbit']:g} Mbit/s: {row['tokens_per_second']:.0f} tokens/s "
        f"({row['predicted_tokens_per_second']:.0f} predicted), utilisation {row['utilisation']:.1%}"
    )


COLUMNS = (
    "Mbit/s", "opponent", "tokens/s", "formula", "util.", "B/token", "loss, equal tokens", "loss, equal time",
    "held out",
)  # fmt: skip


def table(rows: Sequence[Row]) -> Table:
    """Return the rows for people, with how compute was made under them."""
    made = Table(box=None, header_style="dim", caption=caption(rows), caption_justify="left")
    for name in COLUMNS:
        is_name = name == "opponent"
        made.add_column(
            name, justify="left" if is_name else "right", no_wrap=is_name, min_width=8 if is_name else None
        )
    for row in rows:
        made.add_row(*cells(row))
    return made


def remarks(rows: Sequence[Row]) -> list[str]:
    """Return a line for each row that has more to it than its figures."""
    return [f"{row['opponent']}, {row['mbit']:g} Mbit/s: {said}" for row in rows if (said := remark(row))]


def cells(row: Row) -> list[str]:
    """Return a row's cells."""

    def told(name: str, form: str) -> str:
        return "-" if row[name] is None else format(row[name], form)

    return [
        f"{row['mbit']:g}",
        row["opponent"],
        told("tokens_per_second", ".0f"),
        told("predicted_tokens_per_second", ".0f"),
        told("utilisation", ".1%"),
        told("bytes_per_token", ".0f"),
        told("loss_equal_tokens", ".3f"),
        told("loss_equal_time", ".3f"),
        told("loss_held_out", ".3f"),
    ]


def remark(row: Row) -> str:
    """Return what a reader must know of a row beside its figures."""
    said = []
    if row["failure"]:
        said.append(row["failure"])
    elif not row["is_whole"]:
        said.append(f"stopped after {row['limit']:.0f} s")
    elif row["tokens"] < row["tokens_wanted"]:
        said.append(f"{row['tokens']} of {row['tokens_wanted']} tokens")
    if row["overrun"]:
        said.append(f"{row['overrun']:.0%} of steps ran longer than stated")
    if row["contributions_left_out"]:
        said.append(f"{row['contributions_left_out']} contributions did not count")
    return "; ".join(said)


def caption(rows: Sequence[Row]) -> str:
    """Return how peers' compute was made, which decides what the figures mean."""
    if not rows:
        return ""
    row = rows[0]
    if row["step_seconds"]:
        return (
            f"{row['peers']} peers; compute is emulated: a step of {row['batch']} x {row['length']} tokens really runs "
            f"and then waits until {row['step_seconds']:g} s have passed"
        )
    return f"{row['peers']} peers with a core each; beside them a verifier and the ledger's host run where they can"
