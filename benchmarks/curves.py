"""Loss curves as SVG files, one a trial: held apart from measuring, since only this needs matplotlib."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.losses import Training
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


def library() -> None:
    """Set matplotlib up so that the same rows give the same file; raises UserError where it is not installed."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise UserError(
            "plots need matplotlib: pip install 'proofswarm[dev]'; the figures are written"
        ) from error
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "proofswarm"


def draw(runs: Sequence[Training], folder: Path) -> list[Path]:
    """Draw every trial in `runs` into `folder` and return the files; raises UserError without matplotlib."""
    library()
    paths = []
    for trial in dict.fromkeys(run.trial for run in runs):
        path = folder / f"losses-{trial.replace(' ', '-')}.svg"
        _draw_trial(trial, [run for run in runs if run.trial == trial], path)
        paths.append(path)
    return paths


def draw_bands(runs: Sequence[Training], path: Path) -> None:
    """Draw for each kind of arithmetic the mean and the range over seeds of a trial's loss, as SVG or PNG.

    Raises UserError without matplotlib.
    """
    library()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, width_ratios=(2, 1))
    for kind in dict.fromkeys(run.kind for run in runs):
        group = [run for run in runs if run.kind == kind]
        label = f"{TITLES[kind]} ({mean(run.held_out for run in group):.3f})"
        steps = range(WINDOW, len(group[0].losses) + 1)
        for axes, last in zip(panels, (len(steps), len(steps) // 3), strict=True):
            lows, means, highs = (part[-last:] for part in _band([_smooth(run.losses) for run in group]))
            axes.fill_between(steps[-last:], lows, highs, color=COLOURS[kind], alpha=0.2, lw=0)
            axes.plot(
                steps[-last:], means, color=COLOURS[kind], lw=2.4 if kind == "float32" else 1, label=label
            )
    panels[0].set_title(f"{runs[0].parameters / 1e6:.1f} million parameters, {len(group)} seeds", fontsize=10)
    panels[0].set_ylabel(f"training loss, nats a byte, mean of {WINDOW}", fontsize=8)
    panels[0].legend(
        fontsize=7, title="arithmetic (held-out loss at the end)", title_fontsize=7, frameon=False
    )
    panels[1].set_title("the last third", fontsize=10)
    dress(panels)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw_trial(trial: str, runs: Sequence[Training], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    curves, differences = figure.subplots(1, 2)
    native = {run.seed: _smooth(run.losses) for run in runs if run.kind == "float32"}
    steps = range(WINDOW, len(runs[0].losses) + 1)
    for kind in dict.fromkeys(run.kind for run in runs):
        group = [run for run in runs if run.kind == kind]
        label = f"{TITLES[kind]} ({mean(run.held_out for run in group):.3f})"
        for run in group:
            curves.plot(steps, _smooth(run.losses), color=COLOURS[kind], lw=1, alpha=0.8, label=label)
            label = ""
        ratios = [_relative(run.losses, native[run.seed]) for run in group if run.seed in native]
        if kind != "float32" and ratios:
            lows, means, highs = _band(ratios)
            differences.fill_between(steps, lows, highs, color=COLOURS[kind], alpha=0.12, lw=0)
            differences.plot(steps, means, color=COLOURS[kind], lw=1)
    differences.axhline(0, color=COLOURS["float32"], lw=1)
    curves.set_title(f"{trial}: {runs[0].parameters / 1e6:.1f} million parameters", fontsize=10)
    curves.set_ylabel(f"training loss, nats a byte, mean of {WINDOW}", fontsize=8)
    curves.legend(fontsize=7, title="arithmetic (held-out loss at the end)", title_fontsize=7, frameon=False)
    differences.set_title("mean and range over seeds", fontsize=10)
    differences.set_ylabel("over native float32 with the same seed, %", fontsize=8)
    dress((curves, differences))
    figure.savefig(path, metadata={"Date": None})


def dress(panels: Iterable[Any]) -> None:
    """Give panels whose abscissa counts steps the same look."""
    for axes in panels:
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3, lw=0.5)


def _band(curves: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return least, mean and most at each step."""
    return [[pick(at) for at in zip(*curves, strict=True)] for pick in (min, mean, max)]


def _smooth(losses: Sequence[float]) -> list[float]:
    return [mean(losses[step - WINDOW : step]) for step in range(WINDOW, len(losses) + 1)]


def _relative(losses: Sequence[float], native: Sequence[float]) -> list[float]:
    return [100 * (a / b - 1) for a, b in zip(_smooth(losses), native, strict=True)]
