"""What a person sees of the benchmarks: progress, tables and files; the measuring is elsewhere."""

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.table import Table
from rich.text import Text

from benchmarks import bars, curves, gpu, losses
from benchmarks.exact import Row, compare, environment, exact_row, ratio, summarise
from benchmarks.record import machine, publish, write_record
from benchmarks.trainers import Recipe
from trainer.commands.console import Console
from trainer.lifetimes import python
from trainer.programs.devices import require_device
from trainer.programs.options import peer_options
from verification.errors import UserError

TITLES = {
    "float32": "float32",
    "float32-onednn": "float32, oneDNN",
    "float32-compiled": "float32, compiled",
    "tf32": "float32, TF32",
    "bfloat16": "bfloat16 autocast",
    "alia-carbon": "float64, alia-carbon",
    "exact-eager": "exact, eager",
    "exact-compiled": "exact, compiled",
}


def run_exact(
    opponents: Mapping[str, Sequence[str]],
    threads: Sequence[int],
    steps: int,
    curves_file: Path,
    out: Path | None,
    plot: Path | None = None,
) -> None:
    """Measure every model's opponents on every number of threads, print tables, write the record, draw the plot."""
    console, rows = Console(), []
    _print_machine(console)
    for count in threads:
        for model, names in opponents.items():
            title = f"{model}, {count} thread{'s' if count > 1 else ''}"
            with console.status(Text(f"{title}: starting")) as status:

                def tell(line: str, title: str = title, status: Status = status) -> None:
                    status.update(Text(f"{title}: {line}"))

                found = compare(model, count, steps, names, tell)
            console.print(_table(title, found))
            rows += found
    summary = summarise(rows, threads[0], losses.known_gap(curves_file))
    publish(rows, summary, console, out, plot, bars.draw)


def show_profile(models: Sequence[str], threads: int) -> None:
    """Print where an exact step's time goes."""
    console = Console()
    _print_machine(console)
    for model in models:
        command = python("-m", "benchmarks.profile", model, str(threads))
        subprocess.run(command, env=environment(), check=True)


def run_gpu(models: Sequence[str], device: str, steps: int, out: Path | None) -> int:
    """Compare digests and time steps on a device; return 0 when every digest is the golden one, else 1."""
    require_device(peer_options(device))
    console = Console()
    _print_machine(console)
    table, digests = Table("golden run", "digest after 20 steps", "", title=f"digests on {device}"), []
    for row in gpu.digests(device):
        verdict = (
            Text("as on CPU", "green")
            if row["equal"]
            else Text(f"differs from step {row['first_wrong']}", "red")
        )
        table.add_row(row["run"], row["digest"][:32], verdict)
        digests.append(row)
    console.print(table)
    rows: list[Row] = []
    for model in models:
        with console.status(Text(f"timing {model}")):
            found = gpu.compare(model, device, steps)
        console.print(_table(f"{model} on {device}", found))
        rows += found
    summary = gpu.summarise(digests, rows)
    publish([*digests, *rows], summary, console, out)
    return 0 if summary["digests_equal"] else 1


def run_losses(names: Sequence[str], work: Path, threads: int, out: Path, finished: bool) -> None:
    """Train whatever is not there yet unless `finished`, then write losses.json and the plots."""
    torch.set_num_threads(threads)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{work}: cannot be made: {error.strerror}; choose another folder with --work"
        ) from error
    console = Console()
    if not finished:
        _train_pending(names, work, console)
    runs = losses.read_runs(work, names)
    console.print(loss_table(runs))
    rows, summary = losses.rows(runs), losses.summarise(runs)
    write_record(out / "losses.json", rows, summary)
    for path in curves.draw(runs, out):
        console.print(f"wrote {path}")


def _train_pending(names: Sequence[str], work: Path, console: Console) -> None:
    wanted = list(losses.pending(work, names))
    runs = trained(
        [(name, losses.TRIALS[name].recipe, kind, seed) for name, kind, seed, _ in wanted], console
    )
    for (*_, path), run in zip(wanted, runs, strict=True):
        losses.save(run, path)


def trained(wanted: Sequence[tuple[str, Recipe, str, int]], console: Console) -> Iterator[losses.Training]:
    """Train one run after the other, each a trial's name, its recipe, a kind and a seed, and show how far it is."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        for name, recipe, kind, seed in wanted:
            task = progress.add_task(f"{name}: {kind}, seed {seed}", loss="", total=None)

            def tick(done: int, total: int, loss: float, task: TaskID = task) -> None:
                progress.update(task, completed=done, total=total, loss=f"{loss:.3f}")

            run = losses.train(name, recipe, kind, seed, tick)
            progress.remove_task(task)
            console.print(
                f"{name}: {kind}, seed {seed}: held-out loss {run.held_out:.4f}, {run.seconds:.0f} s"
            )
            yield run


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table("opponent", "step, ms", "exact / it", "tokens/s", "peak, MiB", "step, MiB", title=title)
    exact = exact_row(rows)
    for row in rows:
        name = TITLES[row["opponent"]]
        if "failure" in row:
            table.add_row(name, f"did not run: {row['failure']}", style="dim")
            continue
        low, middle, high = (1000 * value for value in row["quartiles"])
        table.add_row(
            name,
            f"{middle:.0f} ({low:.0f}-{high:.0f})",
            f"{ratio(exact, row):.2f}" if exact else "",
            f"{row['tokens_per_second']:.0f}",
            f"{row['peak_memory'] / 2**20:.0f}",
            f"{row['step_memory'] / 2**20:.0f}",
        )
    return table


def loss_table(runs: Sequence[losses.Training]) -> Table:
    """Return the trials' held-out losses by kind of arithmetic, for people."""
    table = Table(
        "trial", "arithmetic", "seeds", "held-out loss", "over float32", "spread of seeds", title="losses"
    )
    for row in losses.rows(runs):
        gap = "" if row["gap"] is None else f"{row['gap']:+.2%}"
        mean, spread = f"{row['held_out']:.4f}", f"{row['spread']:.2%}"
        table.add_row(row["trial"], row["kind"], str(len(row["seeds"])), mean, gap, spread)
    return table


def _print_machine(console: Console) -> None:
    facts = machine()
    instructions = " ".join(facts["instructions"]) or "none that matter"
    console.print(f"{facts['processor']}, {facts['cores']} cores ({instructions}), torch {facts['torch']}")
