"""The command line. Heavy imports wait inside the commands, so that `--help` and mistakes answer at once."""

import contextlib
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points, requires
from pathlib import Path
from typing import Annotated

import typer

from trainer.commands.console import accept_any_text
from verification.errors import ProofswarmError, UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
run_app = typer.Typer(no_args_is_help=True, help="Make runs.")
app.add_typer(run_app, name="run")
for _entry in entry_points(group="proofswarm.commands"):
    # Groups of commands from packages that this one must not import, such as the benchmarks.
    app.add_typer(_entry.load(), name=_entry.name)

Out = Annotated[Path, typer.Option(help="Folder that receives the run; must be new or empty.")]
Listen = Annotated[str, typer.Option(help="Multiaddress to listen on; port 0 lets the system choose.")]
Device = Annotated[str, typer.Option(help="What computes: cpu, cuda or cuda:N.")]
Rate = Annotated[
    int | None,
    typer.Option(
        min=256, max=10**9, help="kB a second of this peer's link, statements first; all by default."
    ),
]
INTERRUPTED = 130
UNSOUND = "Accept parameters under which cheating pays."
MAX_STAKE, MAX_ROUND, MAX_GIB = 2**62, 2**31 - 1, 2**20
CHEATS = (
    "none, skip-steps, noise, stale, wrong-data, wrong-order, half-batch, flip-labels, tail-step, zero-update, "
    "learning-rate, low-precision, one-bit, backdoor, other-end, answers-honestly, withhold-opening, never-commit, "
    "wrong-bytes, copy-work, equivocate, recommit, dawdle, vandal, false-accuser, grief, invent-verdicts, "
    "copy-verdicts, skip-duties, invent-duties, withhold-reveal, withhold-link, wrong-seal, contest-seals"
)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the run; an earlier demo there is replaced.")] = Path(
        "runs/demo"
    ),
    cheat: Annotated[
        str, typer.Option(help=f"What one peer does from round 3 on, joined by commas: {CHEATS}.")
    ] = "skip-steps",
    rounds: Annotated[int, typer.Option(min=1, max=1000)] = 12,
    workers: Annotated[int, typer.Option(min=1, max=64)] = 4,
    verifiers: Annotated[int, typer.Option(min=1, max=16)] = 2,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    text: Annotated[
        Path | None, typer.Option(help="Text to train on instead of the Python reference.")
    ] = None,
    device: Device = "cpu",
) -> None:
    """A whole swarm on this machine: trains a model, catches a cheat, writes a report."""
    from trainer.commands.demo import DemoSettings, run_demo

    raise typer.Exit(run_demo(DemoSettings(out, cheat, rounds, workers, verifiers, seed, text, device)))


@app.command()
def doctor(
    run: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="A run's folder: its own step is tried too.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the same as JSON.")
    ] = None,
    device: Device = "cpu",
) -> None:
    """Is this machine bit-exact, and how fast? Exits with 1 when it must not stake."""
    from trainer.commands.doctor import examine
    from trainer.folder import RunFolder
    from trainer.programs.options import peer_options

    folder = None if run is None else RunFolder(run).checked()
    raise typer.Exit(examine(json_file, folder, peer_options(device)))


@run_app.command("create")
def run_create(
    job: Annotated[Path, typer.Argument(help="Job file (TOML); the README shows one.")],
    out: Out = Path("runs/new"),
    accept_unsound: Annotated[bool, typer.Option("--accept-unsound", help=UNSOUND)] = False,
) -> None:
    """Trace a job's model and open the run on a new local ledger."""
    from trainer.runs.create import create_run
    from trainer.runs.job import read_job

    created = create_run(read_job(job), job.parent, out, typer.echo, accept_unsound)
    created.folder.job.write_bytes(job.read_bytes())
    typer.echo(
        f"run created in {out}: {created.nodes} nodes an inner step, {len(created.keys)} keys in {out}/keys"
    )
    typer.echo(f"join it with: proofswarm peer --run {out} --key {out}/keys/peer-0.key --role worker")


@run_app.command("serve")
def run_serve(
    run: Annotated[Path, typer.Argument(help="The run's folder, which holds its ledger.")],
    key: Annotated[
        Path | None, typer.Option(help="Key file that signs heads; keys/host.key by default, made at first.")
    ] = None,
    listen: Listen = "/ip4/127.0.0.1/tcp/0",
) -> None:
    """Serve a run's ledger, and what was published with it, to peers that share no folder."""
    import trio

    from trainer.commands.serve import host_identity, serve_run
    from trainer.folder import RunFolder

    folder = RunFolder(run).checked()
    trio.run(serve_run, folder, host_identity(folder, key), listen, _tell)


@app.command()
def peer(
    run: Annotated[Path, typer.Option(help="The run's folder.")],
    key: Annotated[Path, typer.Option(help="This peer's key file; its name is the peer's name.")],
    role: Annotated[str, typer.Option(help="worker or verifier.")] = "worker",
    listen: Listen = "/ip4/127.0.0.1/tcp/0",
    threads: Annotated[int, typer.Option(min=1, max=512, help="Threads of the compute process.")] = 1,
    stake: Annotated[
        int | None, typer.Option(min=1, max=MAX_STAKE, help="Stake; what the role needs by default.")
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=MAX_GIB,
            help="GiB a program may need; by default what machine and container, or GPU, have.",
        ),
    ] = None,
    device: Device = "cpu",
    up: Rate = None,
    down: Rate = None,
    cheat: Annotated[str, typer.Option(help=f"For experiments, joined by commas: {CHEATS}.")] = "none",
    cheat_from: Annotated[
        int, typer.Option(min=0, max=MAX_ROUND, help="Round in which cheating begins.")
    ] = 3,
    accept_unsound: Annotated[bool, typer.Option("--accept-unsound", help=UNSOUND)] = False,
    ledger: Annotated[
        str | None,
        typer.Option(
            help="Multiaddress, with key, of a ledger's host: the folder follows it with a copy of its own."
        ),
    ] = None,
    run_id: Annotated[
        str | None, typer.Option(help="Identity of the run that a new folder is to follow, in hex.")
    ] = None,
) -> None:
    """Join a run and take part until it has ended."""
    import trio

    from p2p.server import Grants
    from trainer.folder import RunFolder
    from trainer.peer.config import Account, Joining, PeerConfig
    from trainer.peer.following import fetch_run, host_named, run_named
    from trainer.peer.rogue import misbehaving
    from trainer.peer.runtime import run_peer
    from trainer.programs.options import peer_options
    from trainer.rounds.cheats import names_in, roles_of
    from verification.statements import VERIFIER, WORKER
    from verification.units import Count

    if role not in (WORKER, VERIFIER):
        raise UserError(f"unknown role {role!r}: choose worker or verifier")
    if role not in roles_of(names_in(cheat)):
        raise UserError(f"--cheat {cheat} is not for a {role}: take the other --role")
    folder, account, host = RunFolder(run), Account.read(key), None
    if ledger is not None:
        host = host_named(ledger)
        trio.run(
            fetch_run, folder, account.identity, host, None if run_id is None else run_named(run_id), _tell
        )
    folder.checked()
    options = peer_options(device, None if memory is None else Count(int(memory * 2**30)))
    joining = Joining(role, stake, accept_unsound)
    grants = Grants(up=up and up * 1000, down=down and down * 1000)
    config = PeerConfig(folder, account, joining, listen, threads, options, _tell, grants=grants, host=host)
    trio.run(run_peer, config if cheat == "none" else misbehaving(config, cheat, cheat_from))


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


def _tell(line: str) -> None:
    """Print a line for people; a terminal that has gone away stops no peer."""
    with contextlib.suppress(OSError):
        typer.echo(line)


def main() -> None:
    """Run the command line; a person's mistake is one line on standard error and exit status 2."""
    accept_any_text()
    try:
        app()
    except BaseExceptionGroup as group:
        _fail(_decisive(group))
    except ProofswarmError as error:
        _fail(error)
    except ModuleNotFoundError as error:
        _fail(_not_installed(error))


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
        yield error


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
