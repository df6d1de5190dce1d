"""Tokens a second by link as an SVG or PNG file: held apart from measuring, since only this needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.curves import library

COLOURS = {
    "ours": "#c8501e",
    "ours-4bit": "#e08a3c",
    "ours-top-k": "#8c1d5a",
    "ours-low-rank": "#c23b7a",
    "ddp": "#1f4e9c",
    "torchft": "#2e8b57",
    "hivemind": "#777777",
}
TITLES = {
    "ours": "proofswarm, 8 bits",
    "ours-4bit": "proofswarm, 4 bits",
    "ours-top-k": "proofswarm, top-k",
    "ours-low-rank": "proofswarm, low rank",
    "ddp": "DistributedDataParallel, gloo",
    "torchft": "DiLoCo, torchft",
    "hivemind": "hivemind.Optimizer",
}


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw a line for each opponent, what its formula said dotted beside it; raises UserError without matplotlib."""
    library()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for opponent in dict.fromkeys(row["opponent"] for row in rows):
        own = sorted((row for row in rows if row["opponent"] == opponent), key=lambda row: row["mbit"])
        colour = COLOURS.get(opponent)
        told = [row for row in own if row["tokens_per_second"]]
        axes.plot(
            [row["mbit"] for row in told], [row["tokens_per_second"] for row in told],
            "o-", ms=4, lw=1.6, color=colour, label=TITLES.get(opponent, opponent),
        )  # fmt: skip
        known = [row for row in own if row["predicted_tokens_per_second"]]
        formula = [row["predicted_tokens_per_second"] for row in known]
        axes.plot([row["mbit"] for row in known], formula, ":", lw=1, color=colour)
    axes.set(xscale="log", yscale="log")
    links = sorted({row["mbit"] for row in rows})
    axes.set_xticks(links, [f"{mbit:g}" for mbit in links])
    axes.minorticks_off()
    axes.set_xlabel("link, Mbit/s", fontsize=9)
    axes.set_ylabel("tokens a second, all peers; dotted: predicted", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3, lw=0.5)
    axes.legend(fontsize=7, frameon=False)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
