"""Loss curves as SVG files, one a trial: held apart from measuring, since only this needs matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks.losses import Run
from verification.errors import UserError

WINDOW = 10
"""Steps over which a drawn curve is averaged."""
COLOURS = {
    "float32": "#1f4e9c",
    "perturbed": "#8fb0de",
    "bfloat16": "#777777",
    "exact-14": "#c8501e",
    "exact-8": "#2e8b57",
}
TITLES = {
    "float32": "native float32",
    "perturbed": "native float32, start changed by 1e-6",
    "bfloat16": "native bfloat16 autocast",
    "exact-14": "exact, 14 bits",
    "exact-8": "exact, 8 bits",
}


def draw(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Draw every trial in `runs` into `folder` and return the files; raises UserError without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise UserError(
            "plots need matplotlib: pip install 'proofswarm[dev]'; the figures are written"
        ) from error
    mpl.use("svg")
    # The same runs give the same file: no date, no random identifiers.
    mpl.rcParams["svg.hashsalt"] = "proofswarm"
    paths = []
    for trial in dict.fromkeys(run.trial for run in runs):
        path = folder / f"losses-{trial.replace(' ', '-')}.svg"
        _draw_trial(trial, [run for run in runs if run.trial == trial], path)
        paths.append(path)
    return paths


def _draw_trial(trial: str, runs: Sequence[Run], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    whole, late = figure.subplots(1, 2)
    kinds = list(dict.fromkeys(run.kind for run in runs))
    steps = len(runs[0].losses)
    for kind in kinds:
        group = [run for run in runs if run.kind == kind]
        for run in group:
            xs = range(WINDOW, steps + 1)
            ys = [mean(run.losses[x - WINDOW : x]) for x in xs]
            label = f"{TITLES[kind]} ({mean(r.held_out for r in group):.3f})" if run is group[0] else None
            whole.plot(xs, ys, color=COLOURS[kind], lw=1, alpha=0.8, label=label)
            late.plot(xs[-steps // 4 :], ys[-steps // 4 :], color=COLOURS[kind], lw=1, alpha=0.8)
    whole.set_title(f"{trial}: {runs[0].parameters / 1e6:.1f} million parameters", fontsize=10)
    late.set_title("the last quarter", fontsize=10)
    whole.legend(fontsize=7, title="arithmetic (held-out loss at the end)", title_fontsize=7, frameon=False)
    for axes in (whole, late):
        axes.set_xlabel("step", fontsize=9)
        axes.set_ylabel(f"training loss, nats a byte, mean of {WINDOW}", fontsize=8)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3, lw=0.5)
    figure.savefig(path, metadata={"Date": None})
