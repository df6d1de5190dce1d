"""The figures of `bench crews`, from what members told. No processes, no clock."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from benchmarks.crew_play import Line, Told

Row = dict[str, Any]
BARS = (4, 100.0)
"""Of how many members, and at how many Mbit/s, the summary tells what the bars are set for."""


@dataclass(frozen=True)
class Work:
    """What a step has: tokens, work units of a whole worker's, and parts one after another."""

    tokens: int
    units: int
    parts: int


@dataclass(frozen=True)
class Spell:
    """One member's round, in seconds since 1970: when it began with the first step, ended the last, had a contribution,
    had its neighbours' receipts, and had committed. `stated` and `really` are seconds of its legs by its pace and as
    they ran, `waited` those for want of others, `sent` the bytes that crossed, `peak` its memory's."""

    began: float
    stepped: float
    ended: float
    agreed: float
    committed: float
    stated: float
    really: float
    waited: float
    sent: int
    peak: int


def spells_of(report: Sequence[Line], events: Sequence[Line]) -> dict[int, tuple[int, Spell]]:
    """Return a member's rounds by number, each with its inner steps: those that it computed and committed to."""
    found: dict[int, tuple[int, Spell]] = {}
    own = {each["round"]: each for each in events if each["kind"] == "computed" and each["own"]}
    for place, line in enumerate(report):
        if line["kind"] != "round" or line["number"] not in own:
            continue
        rest = report[place + 1 :]
        until = next((n for n, each in enumerate(rest) if each["kind"] == "ended"), -1)
        marks, computed = [each for each in rest[:until] if each["kind"] == "step"], own[line["number"]]
        commits = [
            each["at"]
            for each in events
            if each["kind"] == "said" and each["statement"] == "Commit" and each["at"] >= computed["at"]
        ]
        if until < 0 or len(marks) != line["steps"] + 1 or not commits:
            continue
        found[line["number"]] = line["steps"], Spell(
            marks[0]["at"], marks[-1]["at"], rest[until]["at"], computed["at"], commits[0],
            marks[-1]["stated"], marks[-1]["really"], computed.get("waited", 0) / 1000, computed.get("sent", 0),
            marks[-1]["peak"],
        )  # fmt: skip
    return found


def opened_at(events: Sequence[Sequence[Line]]) -> dict[int, float]:
    """Return when the first member had the state in which each round begins, in seconds since 1970."""
    told = [each for own in events for each in own if each["kind"] in ("state", "ended")]
    return {n: min(each["at"] for each in told if each["round"] == n) for n in {e["round"] for e in told}}


def rows_of(told: Told, links: Sequence[float | None], speed: float, work: Work) -> list[Row]:
    """Return a row for each link: of the rounds over it that had as many steps as any and counted for all."""
    spells = [spells_of(*each) for each in zip(told.reports, told.events, strict=True)]
    opened, whole = opened_at(told.events), set.intersection(*(set(each) for each in spells))
    most = max((spells[0][number][0] for number in whole), default=0)
    grown = [number for number in sorted(whole) if spells[0][number][0] == most and number + 1 in opened]
    rows = []
    for mbit in dict.fromkeys(links):
        rounds = [number for number in grown if links[number] == mbit]
        if rounds:
            each = [_round([own[number][1] for own in spells], most, opened[number + 1] - opened[number], work)
                    | {"moved": _moved(told.sent, number, most * work.tokens)} for number in rounds]  # fmt: skip
            rows.append(_row(each, len(spells), mbit, speed, most, work))
    return rows


def _moved(sent: Sequence[dict[int, int]], number: int, tokens: int) -> float:
    return sum(each[number + 1] - each[number] for each in sent) / tokens


def _round(spells: Sequence[Spell], steps: int, seconds: float, work: Work) -> Row:
    """Return the figures of one round of a crew."""
    began, stepped = min(each.began for each in spells), max(each.stepped for each in spells)
    tokens = steps * work.tokens
    return {
        "rate": tokens / (stepped - began),
        "whole_rate": tokens / seconds,
        "seconds": seconds,
        "stepping": (stepped - began) / seconds,
        "agreeing": (max(each.agreed for each in spells) - max(each.ended for each in spells)) / seconds,
        "committing": (max(each.committed for each in spells) - max(each.agreed for each in spells))
        / seconds,
        "waited": sum(each.waited for each in spells) / sum(each.stepped - each.began for each in spells),
        "busy": sum(each.really for each in spells) / sum(each.stepped - each.began for each in spells),
        "crossed": sum(each.sent for each in spells) / tokens,
        "peaks": [each.peak for each in spells],
    }


def _row(
    rounds: Sequence[Row], members: int, mbit: float | None, speed: float, steps: int, work: Work
) -> Row:
    """Return the medians of rounds over one link."""
    middle = {name: statistics.median(each[name] for each in rounds) for name in rounds[0] if name != "peaks"}
    return {
        "members": members,
        "speed": speed,
        "mbit": mbit,
        "rounds": len(rounds),
        "steps": steps,
        "tokens_a_second": round(middle["rate"], 1),
        "rates": [round(each["rate"], 1) for each in rounds],
        "round_tokens_a_second": round(middle["whole_rate"], 1),
        "round_seconds": round(middle["seconds"], 2),
        "stepping_share": round(middle["stepping"], 4),
        "receipts_share": round(middle["agreeing"], 4),
        "commitments_share": round(middle["committing"], 4),
        "waited": round(middle["waited"], 4),
        "really_busy": round(middle["busy"], 4),
        "crossing_bytes_per_token": round(middle["crossed"]),
        "moved_bytes_per_token": round(middle["moved"]),
        "peaks": [max(each) for each in zip(*(row["peaks"] for row in rounds), strict=True)],
        "schedule": round(work.parts / (work.parts + members - 1), 4),
    }


def judged(rows: Sequence[Row], work: Work) -> list[Row]:
    """Return rows with what needs others: efficiency over the sum of speeds, what is kept of a crew without limits, and
    peaks over a whole worker's."""
    alone: Row = next((row for row in rows if row["members"] == 1 and not row["speed"]), {})
    found = []
    for row in rows:
        possible = row["speed"] * work.tokens / work.units or alone.get("tokens_a_second")
        free: Row = next((each for each in rows if each["mbit"] is None and _is_like(each, row)), {})
        found.append(
            row
            | {
                "efficiency": _over(row["tokens_a_second"] / row["members"], possible),
                "kept": _over(row["tokens_a_second"], free.get("tokens_a_second")),
                "over_whole": _over(row["tokens_a_second"], possible),
                "peaks_over_whole": [
                    _over(peak, alone["peaks"][0] if alone else None) for peak in row["peaks"]
                ],
            }
        )
    return found


def _is_like(one: Row, other: Row) -> bool:
    return (one["members"], one["speed"]) == (other["members"], other["speed"])


def _over(value: float, base: float | None) -> float | None:
    return round(value / base, 4) if base else None


def summarise(rows: Sequence[Row]) -> Row:
    """Return the figures that count, for each number of members; the bars are 0.85 and 0.8 for four."""
    found: Row = {}
    for row in rows:
        name = f"{row['members']}_members" + ("" if row["speed"] else "_real")
        if row["members"] > 1 and row["mbit"] is None:
            found[f"efficiency_{name}"] = row["efficiency"]
        if row["members"] > 1 and row["mbit"] == BARS[1]:
            found[f"kept_100mbit_{name}"] = row["kept"]
            found[f"crossing_bytes_per_token_{name}"] = row["crossing_bytes_per_token"]
    return found


def table(rows: Sequence[Row], caption: str) -> Table:
    """Return the rows for people."""
    made = Table(box=None, header_style="dim", caption=caption, caption_justify="left")
    names = (
        "members", "pace", "Mbit/s", "tokens/s", "of one whole", "efficiency", "schedule", "kept", "waits",
        "B crossing/token", "B moved/token", "MB", "receipts", "commitments", "tokens/s of rounds",
    )  # fmt: skip
    for name in names:
        made.add_column(name, justify="right")
    for row in rows:
        made.add_row(
            str(row["members"]),
            f"{row['speed'] / 1e9:g}" if row["speed"] else "a core each",
            "unlimited" if row["mbit"] is None else f"{row['mbit']:g}",
            f"{row['tokens_a_second']:.0f}",
            *(_share(row[name]) for name in ("over_whole", "efficiency", "schedule", "kept", "waited")),
            f"{row['crossing_bytes_per_token']:,}",
            f"{row['moved_bytes_per_token']:,}",
            "/".join(f"{peak / 1e6:.0f}" for peak in row["peaks"]),
            *(_share(row[name]) for name in ("receipts_share", "commitments_share")),
            f"{row['round_tokens_a_second']:.0f}",
        )
    return made


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
