"""`proofswarm bench`: the figures of the README, one command each. Heavy imports wait inside the commands."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from trainer.commands.console import accept_any_text
from trainer.lifetimes import ended_by_signals
from verification.errors import ProofswarmError, UserError

app = typer.Typer(no_args_is_help=True)

Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Write machine, rows and summary here.")
]
RESULTS = Path(__file__).parent / "results"


@app.callback()
def begin(context: typer.Context) -> None:
    """The figures in the README, one command each."""
    context.with_resource(ended_by_signals())


@app.command()
def exact(
    models: Annotated[str, typer.Option(help="Models by width, separated by commas.")] = "d256,d512,d768",
    threads: Annotated[str, typer.Option(help="Numbers of threads, separated by commas.")] = "1,2",
    steps: Annotated[
        int, typer.Option(min=1, max=1000, help="Steps measured of each opponent, at most.")
    ] = 7,
    quick: Annotated[
        bool, typer.Option(help="Leave out the opponents that take minutes to start or step.")
    ] = False,
    opponents: Annotated[
        str, typer.Option(help="Only these opponents, separated by commas, such as float32,exact-compiled.")
    ] = "",
    profile: Annotated[bool, typer.Option(help="Show where an exact step's time goes instead.")] = False,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the steps' times here, as SVG or PNG.")
    ] = None,
    json: Json = None,
) -> None:
    """An exact training step against native float32 and bfloat16: time, tokens per second, memory."""
    from benchmarks import report
    from benchmarks.exact import opponents_of
    from benchmarks.opponent import OPPONENTS

    chosen, counts = _names(models), _counts(threads)
    only = _known(opponents, list(OPPONENTS), "opponent") if opponents else []
    if profile:
        report.show_profile(chosen, counts[0])
    else:
        who = opponents_of(chosen, quick, only)
        report.run_exact(who, counts, steps, RESULTS / "losses.json", json, plot)


@app.command()
def losses(
    trials: Annotated[str, typer.Option(help="Trials, separated by commas.")] = "300 steps,deeper,longer",
    work: Annotated[
        Path, typer.Option(help="Folder that keeps finished runs; the command goes on from it.")
    ] = Path("runs/losses"),
    finished: Annotated[bool, typer.Option(help="Train nothing: write what is finished.")] = False,
    threads: Annotated[int, typer.Option(min=1, max=512, help="Threads of a training.")] = 1,
    out: Annotated[Path, typer.Option(help="Folder for losses.json and the plots.")] = RESULTS,
) -> None:
    """Loss curves of native float32, native bfloat16, exact-14 and exact-8 on the same data and seeds (hours)."""
    from benchmarks import report
    from benchmarks.losses import TRIALS

    chosen = _known(trials, list(TRIALS), "trial")
    report.run_losses(chosen, work, threads, out, finished)


@app.command()
def tuned(
    seeds: Annotated[int, typer.Option(min=1, max=100, help="Trainings of each kind.")] = 5,
    steps: Annotated[int, typer.Option(min=40, max=100_000, help="Steps of each.")] = 300,
    threads: Annotated[int, typer.Option(min=1, max=512, help="Threads of a training.")] = 1,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw both kinds' losses here, as SVG or PNG.")
    ] = None,
    json: Json = None,
) -> None:
    """Curves of native and exact training with a cosine schedule, clipping and accumulation (four minutes)."""
    from benchmarks import tuned

    tuned.run(seeds, steps, threads, json, plot)


@app.command()
def audit(
    model: Annotated[str, typer.Option(help="Model by width.")] = "d256",
    steps: Annotated[int, typer.Option(min=1, max=10_000, help="Inner steps of a round.")] = 100,
    leaf_every: Annotated[int, typer.Option(min=1, max=10_000, help="Steps between two leaves.")] = 100,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Records of a step.")] = 4,
    length: Annotated[int, typer.Option(min=1, max=8192, help="Tokens of a record.")] = 128,
    rate: Annotated[float, typer.Option(min=0, max=1, help="How often a verifier audits a worker.")] = 0.05,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Rounds measured of each.")] = 5,
    threads: Annotated[int, typer.Option(min=1, max=512, help="Threads.")] = 1,
    json: Json = None,
) -> None:
    """What verification costs over the training alone: leaves, steps made twice, audits (three minutes)."""
    from benchmarks import auditing
    from benchmarks.opponents.plan import Plan

    (name,) = _names(model)[:1]
    plan = Plan(name, 2, batch, length, steps, 2, 1.0, 1.0, leaf_every=leaf_every)
    auditing.run(plan, rate, rounds, threads, json)


@app.command()
def convergence(
    steps: Annotated[int, typer.Option(min=1, max=10_000_000, help="Inner steps of a worker.")] = 2000,
    inner: Annotated[int, typer.Option(min=1, max=100_000, help="Inner steps of a round.")] = 40,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Workers of a swarm.")] = 2,
    choices: Annotated[str, typer.Option(help="Swarms by name, separated by commas; all by default.")] = "",
    width: Annotated[int, typer.Option(min=64, max=8192, help="Of the model, a multiple of 64.")] = 256,
    layers: Annotated[int, typer.Option(min=1, max=100, help="Of the model; boundaries need 4.")] = 6,
    seed: Annotated[int, typer.Option(min=0, help="Of the weights and of the order of records.")] = 0,
    threads: Annotated[int, typer.Option(min=1, max=512, help="Threads of a training.")] = 1,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw losses and gaps here, as SVG or PNG.")
    ] = None,
    json: Json = None,
) -> None:
    """Loss of local steps and compressed contributions beside data-parallel training on the same tokens (an hour)."""
    from benchmarks import convergence

    known = list(convergence.CHOICES)
    convergence.run(
        convergence.plan_of(steps, inner, workers, width, layers),
        _known(choices or ",".join(known), known, "choice"),
        seed,
        threads,
        json,
        plot,
    )


@app.command()
def gpu(
    models: Annotated[str, typer.Option(help="Models by width, separated by commas.")] = "d512,d768,d2048",
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Steps measured of each opponent.")] = 10,
    device: Annotated[str, typer.Option(help="cuda, cuda:N, or cpu to try the command itself.")] = "cuda",
    json: Json = None,
) -> None:
    """The golden digests on a GPU, and an exact step against native float32 (with and without TF32) and bfloat16."""
    from benchmarks import report

    raise typer.Exit(report.run_gpu(_names(models), device, steps, json))


@app.command()
def detection(
    runs: Annotated[int, typer.Option(min=1, max=1000, help="Runs of 12 cheats for each cell.")] = 10,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw detection over rounds here, as SVG.")
    ] = None,
    json: Json = None,
) -> None:
    """How soon each cheat is caught by the real law in simulation, beside 1-(1-q)^rounds (ten minutes)."""
    from benchmarks import detection

    detection.run(runs, json, plot)


@app.command()
def rings(
    points: Annotated[int, typer.Option(min=1, max=1000, help="Sets of parameters at the edge.")] = 220,
    runs: Annotated[int, typer.Option(min=2, max=1000, help="Runs of the best strategy at each.")] = 4,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the rings' profits here, as SVG.")
    ] = None,
    json: Json = None,
) -> None:
    """What the best ring earns over honest work at the edge of what `run create` accepts (fifteen minutes)."""
    from benchmarks import rings

    rings.run(points, runs, json, plot)


@app.command()
def fuzz(
    seeds: Annotated[int, typer.Option(min=1, max=1_000_000, help="Seeds, each a run or two.")] = 2600,
    json: Json = None,
) -> None:
    """Hostile members who drop, alter, delay, double and invent: no honest peer pays, every run ends (15 minutes)."""
    from benchmarks import fuzz

    raise typer.Exit(fuzz.run(seeds, json))


@app.command()
def churn(
    minutes: Annotated[float, typer.Option(min=1, max=600, help="Minutes with faults.")] = 10,
    faults: Annotated[
        int | None, typer.Option(min=1, max=10_000, help="How many; 62 in 30 minutes by default.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="What the plan of faults is drawn from.")] = 20_261_129,
    compression: Annotated[
        str, typer.Option(help="How contributions are made smaller, as in a job.")
    ] = "none",
    overlap: Annotated[bool, typer.Option(help="Train on while a round is decided, as in a job.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw rounds and faults over time here, as SVG or PNG."),
    ] = None,
    json: Json = None,
) -> None:
    """Real peers killed, stopped, cut off and slowed, and their ledger's host too: what goes on, and what is lost."""
    from benchmarks import churn

    training = f'compression = "{compression}"\noverlap = {str(overlap).lower()}'
    raise typer.Exit(churn.run(minutes, faults, seed, training, json, plot))


@app.command()
def scale(
    peers: Annotated[str, typer.Option(help="Numbers of peers, separated by commas.")] = "100,1000,10000",
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the cost of a round here, as SVG.")
    ] = None,
    json: Json = None,
) -> None:
    """What following a ledger, in a file or served, costs by number of peers, and what runs out first (12 minutes)."""
    from benchmarks import scale

    scale.run(_counts(peers, "--peers"), json, plot)


@app.command()
def hostile(
    minutes: Annotated[
        float, typer.Option(min=0.2, max=600, help="For how long each of the two attacks in all.")
    ] = 10,
    json: Json = None,
) -> None:
    """A hostile stranger and a hostile member against a run of real processes (an hour): rounds, memory, logs."""
    from benchmarks import hostile

    raise typer.Exit(hostile.run(minutes, json))


@app.command()
def dispute(
    model: Annotated[str, typer.Option(help="Model by width.")] = "d512",
    json: Json = None,
) -> None:
    """One wrong number of a Llama step, of 14 kinds, named by the law, and of a billion parameters: bytes and times."""
    from benchmarks.dispute import run_disputes

    (name,) = _names(model)[:1]
    raise typer.Exit(run_disputes(name, json))


@app.command()
def size(
    parameters: Annotated[
        str, typer.Option(help="Sizes in millions of parameters, separated by commas.")
    ] = "10,30,124,350",
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Records of a batch.")] = 1,
    length: Annotated[int, typer.Option(min=1, max=8192, help="Tokens of a record.")] = 256,
    threads: Annotated[int, typer.Option(min=1, max=512, help="Threads of each process that computes.")] = 1,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Steps measured of each.")] = 5,
    json: Json = None,
) -> None:
    """GPT-2 by size: an exact step over native float32, memory, digest, fetch, join and dispute (an hour)."""
    from benchmarks import size
    from benchmarks.trainers import MODELS

    known = [name.removeprefix(size.NAME) for name in MODELS if name.startswith(size.NAME)]
    size.run(_known(parameters, known, "size"), batch, length, threads, steps, json)


@app.command()
def join(
    model: Annotated[str, typer.Option(help="The demo's model (demo), or one by width.")] = "demo",
    mbit: Annotated[float, typer.Option(min=0.1, max=100_000, help="Mbit/s of a newcomer's link.")] = 100,
    newcomers: Annotated[int, typer.Option(min=1, max=20, help="How many come, one after the other.")] = 3,
    json: Json = None,
) -> None:
    """From a ticket to the first commitment: seconds, and bytes of the newcomer's link (needs root; minutes)."""
    from benchmarks import join
    from benchmarks.trainers import MODELS

    _known(model, ["demo", *MODELS], "model")
    join.run(model, mbit, newcomers, json)


@app.command()
def unequal(
    speeds: Annotated[
        str, typer.Option(help="How many times as fast as a whole core each worker is, separated by commas.")
    ] = "1,0.5,0.25,0.125",
    step_seconds: Annotated[
        float, typer.Option(min=0.001, max=3600, help="How long a step takes at speed 1.")
    ] = 0.25,
    model: Annotated[str, typer.Option(help="Model by width.")] = "d64",
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Records of a step.")] = 2,
    length: Annotated[int, typer.Option(min=1, max=8192, help="Tokens of a record.")] = 64,
    local_steps: Annotated[
        int, typer.Option(min=1, max=10_000, help="Steps of a round at the fastest speed.")
    ] = 96,
    leaf_every: Annotated[int, typer.Option(min=1, max=10_000, help="Steps between two leaves.")] = 4,
    rounds: Annotated[int, typer.Option(min=2, max=10_000, help="How many rounds.")] = 10,
    limit: Annotated[
        float, typer.Option(min=1, max=86_400, help="Seconds after which it is stopped.")
    ] = 1800.0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw who is busy by round here, as SVG or PNG.")
    ] = None,
    json: Json = None,
) -> None:
    """Workers of unequal speed in one run: what they train together of what each could alone (root; five minutes)."""
    from benchmarks import unequal
    from benchmarks.opponents.plan import Plan

    (name,), each = _names(model)[:1], tuple(_numbers(speeds, "--speeds"))
    plan = Plan(name, len(each), batch, length, local_steps, rounds, step_seconds, limit, each, leaf_every)
    unequal.run(plan, json, plot)


@app.command()
def shards(
    model: Annotated[str, typer.Option(help="Model by width.")] = "d768-deep",
    parts: Annotated[int, typer.Option(min=1, max=1024, help="Parts of a step's batch, a record each.")] = 48,
    length: Annotated[int, typer.Option(min=1, max=8192, help="Tokens of a record.")] = 64,
    bits: Annotated[
        int, typer.Option(help="Of what goes from block to block: 16, 8 or 4; 0: it is not rounded.")
    ] = 8,
    speed: Annotated[
        float,
        typer.Option(min=0.001, max=1e6, help="Billions of work units of the fastest machine in a second."),
    ] = 50.0,
    links: Annotated[str, typer.Option(help="Mbit/s of the links, separated by commas.")] = "1000,100",
    leads: Annotated[
        str, typer.Option(help="Parts that a shard begins more than the next one, separated by commas.")
    ] = "1,2",
    steps: Annotated[
        int, typer.Option(min=2, max=1000, help="Steps, of which the first is not measured.")
    ] = 2,
    loss_steps: Annotated[
        int,
        typer.Option(
            min=0, max=100_000, help="Steps of the small model that says what --bits cost; 0: none."
        ),
    ] = 300,
    limit: Annotated[
        float, typer.Option(min=1, max=86_400, help="Seconds after which a row is stopped.")
    ] = 300.0,
    json: Json = None,
) -> None:
    """A model in shards over one to four machines: speed, waiting, bytes, memory, loss (needs root; 20 minutes)."""
    from benchmarks import shards

    (name,) = _names(model)[:1]
    if bits not in (0, 16, 8, 4):
        raise UserError(f"--bits: {bits} are none of 16, 8, 4 and 0")
    plan = shards.Plan(
        name, parts, length, speed * shards.GIGA, steps, tuple(_counts(leads, "--leads")), limit, bits
    )
    shards.run(plan, _numbers(links, "--links"), loss_steps, json)


@app.command()
def crews(
    links: Annotated[str, typer.Option(help="Mbit/s of the links, separated by commas.")] = "1000,100",
    members: Annotated[
        str, typer.Option(help="Numbers of members, separated by commas; 1: a whole worker.")
    ] = "1,2,3,4",
    model: Annotated[str, typer.Option(help="Model by width.")] = "d256",
    parts: Annotated[int, typer.Option(min=1, max=1024, help="Parts of a step's batch, a record each.")] = 24,
    length: Annotated[int, typer.Option(min=1, max=8192, help="Tokens of a record.")] = 64,
    bits: Annotated[int, typer.Option(help="Of what goes from block to block: 16, 8 or 4.")] = 8,
    speed: Annotated[
        float,
        typer.Option(
            min=0.001, max=1e6, help="Billions of work units of each member in a second, where cores are few."
        ),
    ] = 5.0,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Inner steps of a round.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Rounds over each link.")] = 2,
    limit: Annotated[
        float, typer.Option(min=1, max=86_400, help="Seconds after which a crew is stopped.")
    ] = 900.0,
    run: Annotated[
        Path | None, typer.Option(help="Folder that keeps the run, which takes minutes to make.")
    ] = None,
    json: Json = None,
) -> None:
    """A model in shards of several owners over slow links: speed, waiting, bytes, memory, receipts (root; minutes)."""
    from benchmarks import crews

    (name,) = _names(model)[:1]
    if bits not in (16, 8, 4):
        raise UserError(f"--bits: {bits} are none of 16, 8 and 4")
    counts, mbits = _counts(members, "--members"), _numbers(links, "--links")
    if max(counts) < 2:
        raise UserError("--members: a crew has two at least")
    plan = crews.Plan(
        name, parts, length, bits, steps, rounds, speed * crews.GIGA, limit, tuple(counts), tuple(mbits)
    )
    crews.run(plan, json, run)


@app.command()
def half(
    model: Annotated[
        str, typer.Option(help="Model by width, or by its millions of parameters.")
    ] = "gpt2-124",
    members: Annotated[int, typer.Option(min=2, max=64, help="Shards, each held by a peer.")] = 3,
    share: Annotated[
        float, typer.Option(min=0.01, max=1, help="Of the memory that the whole needs, what a member has.")
    ] = 0.5,
    verifier: Annotated[
        float, typer.Option(min=0, max=10, help="What the verifier has of it; 0: it has no limit.")
    ] = 0.5,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="How many rounds.")] = 2,
    steps: Annotated[int, typer.Option(min=1, max=10_000, help="Inner steps of a round.")] = 2,
    length: Annotated[int, typer.Option(min=1, max=8192, help="Tokens of a record; a step has one.")] = 128,
    json: Json = None,
) -> None:
    """A model by a crew of which nobody has memory for the whole, in control groups (needs root; ten minutes)."""
    from benchmarks import half

    (name,) = _names(model)[:1]
    half.run(half.Plan(name, members, share, verifier, rounds, steps, length), json)


@app.command()
def drill(
    kills: Annotated[int, typer.Option(min=1, max=1000, help="How often a machine is killed.")] = 10,
    machines: Annotated[int, typer.Option(min=2, max=16, help="Machines of the group.")] = 3,
    rounds: Annotated[int, typer.Option(min=5, max=1000, help="Rounds of the run.")] = 60,
    out: Annotated[Path, typer.Option(help="Folder for the run; an earlier one there is replaced.")] = Path(
        "runs/drill"
    ),
    json: Json = None,
) -> None:
    """Each machine of a group that holds a model in parts is killed in turn, mid-round (ten minutes)."""
    from benchmarks import drill

    raise typer.Exit(drill.run(kills, machines, rounds, out, json))


@app.command()
def wan(
    links: Annotated[str, typer.Option(help="Mbit/s of the links, separated by commas.")] = "10,50,100,1000",
    opponents: Annotated[
        str, typer.Option(help="Opponents, separated by commas.")
    ] = "ours,ours-4bit,ours-low-rank,ddp,torchft,hivemind",
    model: Annotated[str, typer.Option(help="Model by width.")] = "d256",
    peers: Annotated[int, typer.Option(min=2, max=64, help="Peers that train.")] = 2,
    batch: Annotated[int, typer.Option(min=1, max=1024, help="Records of a peer's step.")] = 4,
    length: Annotated[int, typer.Option(min=1, max=8192, help="Tokens of a record.")] = 128,
    local_steps: Annotated[
        int, typer.Option(min=1, max=10_000, help="Steps between two syncs, of who trains locally.")
    ] = 30,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="How many times those.")] = 8,
    step_seconds: Annotated[
        float, typer.Option(min=0, max=3600, help="State how long a step takes, for more peers than cores.")
    ] = 0.0,
    limit: Annotated[
        float, typer.Option(min=1, max=86_400, help="Seconds of training after which an opponent is stopped.")
    ] = 300.0,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw tokens a second by link here, as SVG or PNG.")
    ] = None,
    json: Json = None,
) -> None:
    """Training over slow links: ours beside DDP, torchft's DiLoCo and hivemind.Optimizer (needs root; an hour)."""
    from benchmarks import wan
    from benchmarks.opponents.plan import Plan

    (name,) = _names(model)[:1]
    plan = Plan(name, peers, batch, length, local_steps, rounds, step_seconds, limit)
    mbits = [float(count) for count in _counts(links, "--links")]
    wan.run(plan, mbits, _known(opponents, list(wan.OPPONENTS), "opponent"), json, plot)


def _names(text: str) -> list[str]:
    from benchmarks.trainers import MODELS

    return _known(text, list(MODELS), "model")


def _known(text: str, known: list[str], what: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise UserError(f"unknown {what} {name!r}: choose from {', '.join(known)}")
    return names


def _numbers(text: str, option: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not min(numbers) > 0:
        raise UserError(f"{option}: {text!r} is no list of numbers above 0; write for example 1,0.5")
    return numbers


def _counts(text: str, option: str = "--threads") -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1:
        raise UserError(f"{option}: {text!r} is no list of numbers; write for example 1,2")
    return counts


def main() -> None:
    """Run one command; a person's mistake is one line on standard error and exit status 2."""
    arguments: dict[str, Any] = {"prog_name": "python -m benchmarks"}
    accept_any_text()
    try:
        app(**arguments)
    except ProofswarmError as error:
        sys.stderr.write(f"proofswarm: {error}\n")
        sys.exit(2)
