"""Step times as bars, an SVG or PNG file: held apart from measuring, since only this needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.curves import library
from benchmarks.exact import Row, ratio

COLOURS = {
    "float32": "#1f4e9c",
    "float32-onednn": "#5b84c4",
    "float32-compiled": "#a9c1e6",
    "exact-compiled": "#c8501e",
}
TITLES = {
    "float32": "float32, as PyTorch comes",
    "float32-onednn": "float32, oneDNN",
    "float32-compiled": "float32, torch.compile",
    "exact-compiled": "exact (14 bits)",
}
SEVERAL = 0.5
"""Quartiles further apart than this share of the median: something else ran, and the group is not drawn."""


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw each opponent's step over the default float32's, a group per model and threads, into `path`.

    `rows` are those of `benchmarks.exact`; groups that were disturbed are left out. Raises UserError without
    matplotlib.
    """
    library()
    from matplotlib.figure import Figure

    shown = [row for row in rows if row["opponent"] in COLOURS and "failure" not in row]
    groups = {
        place: {row["opponent"]: row for row in shown if (row["model"], row["threads"]) == place}
        for place in dict.fromkeys((row["model"], row["threads"]) for row in shown)
    }
    groups = {
        place: group
        for place, group in groups.items()
        if "float32" in group and all(map(_is_steady, group.values()))
    }
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(COLOURS)
    for place, name in enumerate(COLOURS):
        found = [
            (at, group[name], group["float32"]) for at, group in enumerate(groups.values()) if name in group
        ]
        bars = axes.bar(
            [at + (place - 1.5) * width for at, _, _ in found],
            [ratio(row, base) for _, row, base in found],
            width * 0.92,
            color=COLOURS[name],
            label=TITLES[name],
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=6, padding=1)
    labels = [f"{model}\n{threads} thread{'s' if threads > 1 else ''}" for model, threads in groups]
    axes.set_xticks(range(len(groups)), labels, fontsize=8)
    axes.set_ylabel("time of a step over float32's", fontsize=8)
    axes.axhline(1, color=COLOURS["float32"], lw=0.8, ls=":")
    axes.margins(y=0.25)
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False, ncols=len(COLOURS), loc="upper left")
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _is_steady(row: Row) -> bool:
    low, middle, high = row["quartiles"]
    return bool(high - low <= SEVERAL * middle)
