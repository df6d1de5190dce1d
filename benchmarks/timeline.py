"""A swarm under faults, drawn over time: held apart from measuring, since only this needs matplotlib."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.curves import library
from simulator.plan import TOLD, Kind

COLOURS = {
    Kind.KILL: "#c8501e",
    Kind.STOP: "#e0a030",
    Kind.CUT: "#7b3294",
    Kind.PART: "#b39ddb",
    Kind.HOST: "#222222",
    Kind.SLOW: "#2e8b57",
    Kind.LOSS: "#8fb0de",
}


def draw(
    rows: Sequence[dict[str, Any]], more: Mapping[str, Sequence[dict[str, Any]]], deadline: float, path: Path
) -> None:
    """Draw each round's length over the time of its end, and below whom which fault struck when, into `path`.

    Quiet times are shaded. Raises UserError without matplotlib.
    """
    library()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    rounds, faults = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    ends = [row["at"] / 60_000 for row in more["rounds"]]
    lengths = [60 * (later - early) for early, later in itertools.pairwise(ends)]
    rounds.plot(ends[1:], lengths, ".", color="#1f4e9c", ms=3)
    rounds.axhline(deadline, color="#777777", lw=0.8, ls=":")
    rounds.set_ylabel("seconds a round", fontsize=8)
    rounds.set_ylim(bottom=0)
    peers = sorted({peer for fault in more["faults"] for peer in fault["peers"]})
    names = ["host", *(f"peer-{peer}" for peer in peers)]
    for kind in Kind:
        label = TOLD[kind]
        for fault in more["faults"]:
            if fault["kind"] == kind:
                begin, end = fault["start"] / 60_000, fault["end"] / 60_000
                for place in [names.index(f"peer-{peer}") for peer in fault["peers"]] or [0]:
                    faults.barh(place, end - begin, left=begin, color=COLOURS[kind], label=label)
                    label = ""
    faults.set_yticks(range(len(names)), names, fontsize=7)
    faults.invert_yaxis()
    faults.set_xlabel("minutes", fontsize=9)
    figure.legend(loc="outside lower center", ncols=4, fontsize=7, frameon=False)
    for axes in (rounds, faults):
        for row in rows:
            if row["time"] == "quiet":
                axes.axvspan(row["begin"] / 60_000, row["end"] / 60_000, color="#eeeeee", zorder=0)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
