"""The command line. Heavy imports wait inside the commands, so that `--help` and mistakes answer at once."""

import errno
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from importlib.metadata import entry_points, requires
from pathlib import Path
from subprocess import Popen
from typing import Annotated

import typer

from trainer.commands import runs
from trainer.commands.console import accept_any_text
from trainer.commands.runs import (
    LOCAL,
    NONE,
    UNSOUND,
    Announce,
    Listen,
    LogTo,
    Mdns,
    Relay,
    Upnp,
    Via,
    outside_of,
    tell,
)
from trainer.compute.children import started
from trainer.loading import loading
from verification.errors import NoRoom, ProofswarmError, UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
app.add_typer(runs.app, name="run")
for _entry in entry_points(group="proofswarm.commands"):
    # Groups of commands from packages that this one must not import, such as the benchmarks.
    app.add_typer(_entry.load(), name=_entry.name)

Device = Annotated[str, typer.Option(help="What computes: cpu, cuda or cuda:N.")]
Rate = Annotated[
    int | None,
    typer.Option(
        min=256, max=10**9, help="kB a second of this peer's link, statements first; all by default."
    ),
]
MAX_STAKE, MAX_ROUND, MAX_GIB = 2**62, 2**31 - 1, 2**20
Role = Annotated[str, typer.Option(help="worker or verifier.")]
Threads = Annotated[int, typer.Option(min=1, max=512, help="Threads of the compute process.")]
Stake = Annotated[
    int | None, typer.Option(min=1, max=MAX_STAKE, help="Stake; what the role needs by default.")
]
Memory = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=MAX_GIB,
        help="GiB a program may take, in parts if it needs more; by default what machine, container or GPU have left.",
    ),
]
GroupSize = Annotated[
    int | None,
    typer.Option(
        "--group",
        min=2,
        max=1024,
        help="Lead a group of so many machines of yours, which share each inner step.",
    ),
]
GroupListen = Annotated[
    str,
    typer.Option(
        metavar="ADDRESS[:PORT]", help="Where the group's other machines reach this one, on your network."
    ),
]
GroupBy = Annotated[
    str,
    typer.Option(
        help="How its machines share a step: each has some of its records, and totals are added up by gloo, or by "
        "hivemind if that is installed; or shards: each holds a part of the model."
    ),
]
Shard = Annotated[
    int | None,
    typer.Option(
        "--shard",
        min=1,
        max=256,
        help="Hold this shard of the model, in crews with peers of other owners that hold the others.",
    ),
]
CutNumber = Annotated[int, typer.Option("--cut", min=0, help="Of this cut of the run, from 0 on.")]
LOOPBACK = "127.0.0.1"
INTERRUPTED = 130
CHEATS = (
    "none, skip-steps, noise, stale, wrong-data, wrong-order, half-batch, flip-labels, tail-step, zero-update, "
    "learning-rate, low-precision, one-bit, backdoor, other-end, false-activations, "
    "false-gradients, answers-honestly, withhold-opening, never-commit, "
    "wrong-bytes, copy-work, equivocate, recommit, dawdle, vandal, false-accuser, grief, invent-verdicts, "
    "copy-verdicts, skip-duties, invent-duties, withhold-reveal, withhold-link, wrong-seal, contest-seals, "
    "two-faced, frame-neighbour"
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the run; an earlier demo there is replaced.")] = Path(
        "runs/demo"
    ),
    cheat: Annotated[
        str,
        typer.Option(
            help=f"What one peer does from round 3 on, skip-steps if not said, joined by commas: {CHEATS}."
        ),
    ] = "",
    rounds: Annotated[int, typer.Option(min=1, max=1000)] = 12,
    workers: Annotated[int, typer.Option(min=1, max=64)] = 4,
    verifiers: Annotated[int, typer.Option(min=1, max=16)] = 2,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    text: Annotated[
        Path | None, typer.Option(help="Text to train on instead of the Python reference.")
    ] = None,
    device: Device = "cpu",
    hosts: Annotated[
        bool, typer.Option("--hosts", help="Every peer on a host of its own, two behind NATs; needs root.")
    ] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Print a ticket by which another machine joins while it runs.")
    ] = False,
    listen: Listen = LOCAL,
    shards: Annotated[
        int | None,
        typer.Option(
            min=2, max=16, help="The first worker is so many machines that hold a part of the model each."
        ),
    ] = None,
    log_to: LogTo = NONE,
    crew: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=16,
            help="So many members of as many owners train as one worker a model that none of them can hold.",
        ),
    ] = None,
) -> None:
    """A whole swarm on this machine: trains a model, catches a cheat, writes a report."""
    with loading():
        from trainer.commands.crew_demo import run_with_crew
        from trainer.commands.demo import DemoSettings, run_demo
        from trainer.commands.on_hosts import run_on_hosts
        from trainer.commands.open_demo import run_served
        from trainer.commands.sharded_demo import run_in_shards

    cheat = cheat or ("skip-steps" if crew is None else "false-activations")
    settings = DemoSettings(out, cheat, rounds, workers, verifiers, seed, text, device, log_to=tuple(log_to))
    if hosts and serve:
        raise UserError("hosts on this machine are reached by nobody else: leave out --hosts or --serve")
    if (shards or crew) is not None and (hosts or serve):
        raise UserError("--shards and --crew are for a demo in one folder: leave out --hosts and --serve")
    if shards is not None and crew is not None:
        raise UserError(
            "a crew is of many owners, and --shards shows one owner's machines: leave out one of them"
        )
    if listen != LOCAL and not serve:
        raise UserError("--listen is for a demo that others join: add --serve")
    if serve:
        raise typer.Exit(run_served(settings, listen))
    if shards is not None:
        raise typer.Exit(run_in_shards(settings, shards))
    if crew is not None:
        raise typer.Exit(run_with_crew(settings, crew))
    raise typer.Exit(run_on_hosts(settings) if hosts else run_demo(settings))


@app.command()
def doctor(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[RUN|TICKET]",
            help="A run's folder: its own step is tried too. With --network a ticket: the way to its host is tried.",
        ),
    ] = None,
    network: Annotated[
        bool,
        typer.Option("--network", help="Try the network instead: this machine's port, the way to a host."),
    ] = False,
    listen: Listen = LOCAL,
    mdns: Mdns = True,
    upnp: Upnp = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the same as JSON.")
    ] = None,
    device: Device = "cpu",
) -> None:
    """Is this machine bit-exact, and how fast? Exits with 1 when it must not stake, or a step of --network fails."""
    if network:
        from trainer.commands.join import read_ticket
        from trainer.commands.network import examine_network

        raise typer.Exit(
            examine_network(
                None if what is None else read_ticket(what),
                " ".join(listen),
                outside_of([], [], False, mdns, upnp),
                json_file,
            )
        )
    with loading():
        from trainer.commands.doctor import examine
        from trainer.folder import RunFolder
        from trainer.programs.options import peer_options

    folder = None if what is None else RunFolder(Path(what)).checked()
    raise typer.Exit(examine(json_file, folder, peer_options(device)))


def _computing(is_honest: bool) -> AbstractContextManager[Popen[bytes] | None]:
    """Have an honest peer's compute process load PyTorch while this one loads the rest; another has its own."""
    return started() if is_honest else nullcontext()


@app.command()
def models(
    only: Annotated[
        str, typer.Option(metavar="NAME,...", help="Only these model types, joined by commas.")
    ] = "",
    json_file: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="Keep outcomes there as they come; with --only among others."
        ),
    ] = None,
    limit: Annotated[float, typer.Option(min=1, max=86400, help="Seconds that one may take.")] = 300.0,
) -> None:
    """Which architectures of the installed transformers train exactly: a tiny model and one step of each."""
    with loading():
        from trainer.commands.models import run_models

    raise typer.Exit(run_models([name for name in only.split(",") if name], json_file, limit))


@app.command()
def new(
    name: Annotated[Path, typer.Argument(help="The folder to make.")],
    kind: Annotated[
        str,
        typer.Option(
            help="What to start from: tiny, gpt2 (from scratch on text), checkpoint, images, lora (on a checkpoint)."
        ),
    ] = "tiny",
) -> None:
    """Write a folder with a commented job file and data, ready for 'proofswarm run create'."""
    from trainer.commands.new import make_folder

    for line in (f"{name}/job.toml is ready; next:", *make_folder(name, kind)):
        typer.echo(line)


@app.command()
def peer(
    run: Annotated[Path, typer.Option(help="The run's folder.")],
    key: Annotated[Path, typer.Option(help="This peer's key file; its name is the peer's name.")],
    role: Role = "worker",
    listen: Listen = LOCAL,
    announce: Announce = NONE,
    via: Via = NONE,
    relay: Relay = False,
    mdns: Mdns = True,
    upnp: Upnp = False,
    threads: Threads = 1,
    stake: Stake = None,
    memory: Memory = None,
    device: Device = "cpu",
    up: Rate = None,
    down: Rate = None,
    cheat: Annotated[str, typer.Option(help=f"For experiments, joined by commas: {CHEATS}.")] = "none",
    cheat_from: Annotated[
        int, typer.Option(min=0, max=MAX_ROUND, help="Round in which cheating begins.")
    ] = 3,
    accept_unsound: Annotated[bool, typer.Option("--accept-unsound", help=UNSOUND)] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the folder's ledger too, under this peer's key.")
    ] = False,
    ledger: Annotated[
        str | None,
        typer.Option(
            help="Multiaddress, with key, of a ledger's host: the folder follows it with a copy of its own."
        ),
    ] = None,
    run_id: Annotated[
        str | None, typer.Option(help="Identity of the run that a new folder is to follow, in hex.")
    ] = None,
    log_to: LogTo = NONE,
    group: GroupSize = None,
    group_listen: GroupListen = LOOPBACK,
    group_by: GroupBy = "gloo",
    shard: Shard = None,
    cut: CutNumber = 0,
) -> None:
    """Take part in a run until it has ended."""
    if group is not None and cheat != "none":
        raise UserError("a group does not cheat: leave out --group or --cheat")
    with _computing(cheat == "none" and group is None) as compute:
        with loading():
            import trio

            from trainer.commands.group import leading
            from trainer.commands.join import Settings, logging_to, settled
            from trainer.folder import RunFolder
            from trainer.peer.config import Account
            from trainer.peer.following import host_named, run_named
            from trainer.peer.rogue import misbehaving
            from trainer.peer.runtime import run_peer
            from trainer.rounds.cheats import is_for_members, names_in, roles_of

        outside = outside_of(announce, via, relay, mdns, upnp)
        settings = Settings(
            role, " ".join(listen), outside, threads, stake, memory, device, up, down, accept_unsound,
            shard, cut,
        )  # fmt: skip
        if serve and ledger is not None:
            raise UserError("a copy is served by nobody: leave out --serve or --ledger")
        config = replace(
            settled(settings, RunFolder(run), Account.read(key), tell),
            host=None if ledger is None else host_named(ledger),
            run=None if run_id is None else run_named(run_id),
            serves=serve,
            compute=compute,
        )
        if role not in roles_of(names_in(cheat)):
            raise UserError(f"--cheat {cheat} is not for a {role}: take the other --role")
        if is_for_members(names_in(cheat)) and shard is None:
            raise UserError(f"--cheat {cheat} is for members of crews: say which --shard")
        with logging_to(leading(config, group, group_listen, group_by), log_to) as config:
            trio.run(run_peer, config if cheat == "none" else misbehaving(config, cheat, cheat_from))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The run's folder, where it was made.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="New folder for the model, model/ in the run's by default; with --every for one of each round, "
            "checkpoints/ there."
        ),
    ] = None,
    number: Annotated[
        int | None, typer.Option("--round", min=0, help="Round after which; the newest by default.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, or rounded once: bfloat16, float16.")] = "float32",
    every: Annotated[
        int | None, typer.Option(min=1, help="Write the model after every so many rounds instead.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="With --every: go on until the run has ended.")
    ] = False,
) -> None:
    """Write a run's model as a Hugging Face folder, with its tokenizer and a card that says where it comes from."""
    from trainer.commands.export import export_rounds, export_run
    from trainer.folder import RunFolder

    folder = RunFolder(run).checked()
    if every is not None:
        if number is not None:
            raise UserError("one round is asked for, and several: leave out --round or --every")
        export_rounds(folder, out or folder.path / "checkpoints", every, follow, dtype, tell)
        return
    if follow:
        raise UserError("--follow is for the model after every so many rounds: add --every")
    tell(export_run(folder, out or folder.path / "model", number, dtype))


@app.command(name="eval")
def evaluate(
    run: Annotated[Path, typer.Argument(help="The run's folder, where it was made.")],
    every: Annotated[
        int, typer.Option(min=1, help="Evaluate after every so many rounds, and the newest.")
    ] = 1,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the same as JSON.")
    ] = None,
    module: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The Python file that makes the model, if one does; it runs here."),
    ] = None,
) -> None:
    """Judge the model after its rounds on held-out data: anybody may, while the run goes on or when it has ended."""
    from trainer.commands.evaluate import evaluate_run
    from trainer.folder import RunFolder

    evaluate_run(RunFolder(run).checked(), every, tell, json_file, module)


@app.command()
def join(
    ticket: Annotated[
        str, typer.Argument(help="The ticket, or a file that holds it, or - for standard input.")
    ],
    role: Role = "worker",
    folder: Annotated[
        Path | None,
        typer.Option(help="Folder for the run here; by default runs/ and 12 digits of the run's identity."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="Key file of an account of one's own, instead of the ticket's.")
    ] = None,
    listen: Listen = LOCAL,
    announce: Announce = NONE,
    via: Via = NONE,
    relay: Relay = False,
    mdns: Mdns = True,
    upnp: Upnp = False,
    threads: Threads = 1,
    stake: Stake = None,
    memory: Memory = None,
    device: Device = "cpu",
    up: Rate = None,
    down: Rate = None,
    accept_unsound: Annotated[bool, typer.Option("--accept-unsound", help=UNSOUND)] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what joining would take, and leave no file of the run.")
    ] = False,
    log_to: LogTo = NONE,
    group: GroupSize = None,
    group_listen: GroupListen = LOOPBACK,
    group_by: GroupBy = "gloo",
    shard: Shard = None,
    cut: CutNumber = 0,
) -> None:
    """Join a run by a ticket: fetch it, try this machine on it, and take part. The same again goes on from there."""
    with _computing(not dry_run and group is None) as compute:
        with loading():
            import trio

            from trainer.commands.group import leading
            from trainer.commands.join import Settings, config_of, logging_to, read_ticket
            from trainer.peer.runtime import run_peer

        outside = outside_of(announce, via, relay, mdns, upnp)
        settings = Settings(
            role, " ".join(listen), outside, threads, stake, memory, device, up, down, accept_unsound,
            shard, cut,
        )  # fmt: skip
        config = config_of(settings, read_ticket(ticket), folder, key, tell)
        if dry_run:
            from trainer.commands.rehearsal import rehearse

            raise typer.Exit(rehearse(config))
        config = leading(replace(config, compute=compute), group, group_listen, group_by)
        with logging_to(config, log_to) as config:
            trio.run(run_peer, config)


@app.command()
def group(
    ticket: Annotated[
        str,
        typer.Option(
            help="The ticket that the leader writes, a file that holds it, or - for standard input."
        ),
    ],
    threads: Threads = 1,
    memory: Memory = None,
    device: Device = "cpu",
) -> None:
    """Share the inner steps, or hold a part of the model, of a peer of yours that leads a group, until it goes."""
    with loading():
        from trainer.commands.group import join_group
        from trainer.programs.options import peer_options
        from verification.units import Count

    limit = None if memory is None else Count(int(memory * 2**30))
    join_group(ticket, threads, peer_options(device, limit), tell)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
) -> None:
    """Make report.json and report.html again from ledger and events, and print what happened."""
    from trainer.commands.report import print_report, write_report
    from trainer.folder import RunFolder

    print_report(write_report(RunFolder(run).checked()))


@app.command()
def demand(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    key: Annotated[Path, typer.Option(help="Key file of the account that pays.")],
    number: Annotated[
        int | None, typer.Option("--round", min=0, help="Round; the newest that is promised by default.")
    ] = None,
    worker: Annotated[str | None, typer.Option(help="Whose contribution: a peer's name or account.")] = None,
) -> None:
    """Pay to see a drawn chunk of a contribution, and say what came of it. Status 0 if it was shown, else 1."""
    from trainer.commands.demand import run_demand
    from trainer.folder import RunFolder

    raise typer.Exit(run_demand(RunFolder(run).checked(), key, number, worker, typer.echo))


@app.command()
def verify(
    evidence: Annotated[
        list[Path], typer.Argument(help="Files of evidence, or folders of them, or of runs.")
    ],
    run: Annotated[
        Path | None, typer.Option(help="A run's folder: what rests on its ledger is checked against that.")
    ] = None,
) -> None:
    """Check convictions: signed words, the one node, its inputs. Status 0 if each holds, 3 if one rests on a ledger
    that was not given, 1 if one is refused."""
    from trainer.commands.verify import check_files

    raise typer.Exit(check_files(evidence, run))


def main() -> None:
    """Run the command line; a person's mistake is one line on standard error and exit status 2."""
    accept_any_text()
    try:
        app()
    except BaseExceptionGroup as group:
        _fail(_decisive(group))
    except (ProofswarmError, OSError, sqlite3.OperationalError) as error:
        _fail(_expected(error))
    except ModuleNotFoundError as error:
        _fail(_not_installed(error))


def _expected(error: BaseException) -> BaseException:
    """Return what a person reads of a disk that is full, wherever it was found; any other error as it is."""
    if isinstance(error, NoRoom):
        return UserError(str(error))
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, sqlite3.OperationalError):
        is_full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
    return UserError(f"{error}: free space and start again: nothing is lost") if is_full else error


def _not_installed(error: ModuleNotFoundError) -> BaseException:
    """Return what a person reads for a package of the `train` extra, which checking evidence does without."""
    name = (error.name or "").split(".")[0]
    if f'{name}; extra == "train"' not in (requires("proofswarm") or ()):
        return error
    return UserError(f"this command needs {name}: pip install 'proofswarm[train]' brings it")


def _decisive(group: BaseException) -> BaseException:
    """Return the error that ended a group of tasks, or the interrupt; a group with a bug in it stays whole."""
    leaves = list(_leaves(group))
    interrupts = [error for error in leaves if isinstance(error, KeyboardInterrupt)]
    expected = sorted(leaves, key=lambda error: not isinstance(error, UserError))
    if interrupts or all(isinstance(error, ProofswarmError) for error in leaves):
        return [*interrupts, *expected][0]
    return group


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield _expected(error)


def _fail(error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt):
        sys.stderr.write("proofswarm: interrupted; the same command goes on where this one stopped\n")
        sys.exit(INTERRUPTED)
    if not isinstance(error, ProofswarmError):
        raise error
    sys.stderr.write(f"proofswarm: {error}\n")
    sys.exit(2 if isinstance(error, UserError) else 1)


if __name__ == "__main__":
    main()
