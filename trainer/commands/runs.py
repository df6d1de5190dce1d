"""`proofswarm run`: make a run, serve its ledger, invite others. Heavy imports wait inside the commands."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trainer.loading import loading

if TYPE_CHECKING:
    from p2p.listening import Outside

app = typer.Typer(no_args_is_help=True, help="Make runs, serve them, and invite others.")

Listen = Annotated[
    list[str],
    typer.Option(
        help="Multiaddress to listen on, /ip4/ADDRESS/tcp/PORT or /ip6/...; may be given several times. Port 0 lets "
        "the system choose, 0.0.0.0 and :: are all of this machine's."
    ),
]
Announce = Annotated[
    list[str],
    typer.Option(
        help="Address that others are told in place of those listened on; may be given several times."
    ),
]
Via = Annotated[
    list[str],
    typer.Option(
        help="Multiaddress, with key, of a relay by way of which others reach this peer behind its NAT; may be given "
        "several times."
    ),
]
Relay = Annotated[
    bool, typer.Option(help="Carry statements between peers that cannot reach each other directly.")
]
Mdns = Annotated[
    bool,
    typer.Option(
        "--mdns/--no-mdns",
        help="Tell the local networks listened on, by mDNS, which run and peer this is and where, and look there for "
        "who does not answer elsewhere.",
    ),
]
Upnp = Annotated[
    bool,
    typer.Option("--upnp", help="Ask the gateway, by UPnP, to lead a port of its own here while this runs."),
]
LogTo = Annotated[
    list[str],
    typer.Option(
        metavar="DESTINATION",
        help="Log the run's figures by rounds to FILE.csv, FILE.jsonl or a folder for TensorBoard, and go on there "
        "where the last log stopped; may be given several times.",
    ),
]
LOCAL, NONE = ["/ip4/127.0.0.1/tcp/0"], list[str]()
Folder = Annotated[Path, typer.Argument(help="The run's folder, which holds its ledger.")]
UNSOUND = "Accept parameters under which cheating pays."


@app.command()
def create(
    job: Annotated[Path, typer.Argument(help="Job file (TOML); the README shows one.")],
    out: Annotated[Path, typer.Option(help="Folder that receives the run; must be new or empty.")] = Path(
        "runs/new"
    ),
    accept_unsound: Annotated[bool, typer.Option("--accept-unsound", help=UNSOUND)] = False,
) -> None:
    """Trace a job's model and open the run on a new local ledger."""
    with loading():
        from trainer.runs.create import create_run
        from trainer.runs.job import read_job

    created = create_run(read_job(job), job.parent, out, typer.echo, accept_unsound)
    created.folder.job.write_bytes(job.read_bytes())
    typer.echo(
        f"run created in {out}: {created.nodes} nodes an inner step, {len(created.keys)} keys in {out}/keys"
    )
    typer.echo(f"join it with: proofswarm peer --run {out} --key {out}/keys/peer-0.key --role worker")


@app.command()
def extend(
    run: Annotated[Path, typer.Argument(help="The folder of the run that is to go on.")],
    job: Annotated[
        Path, typer.Argument(help="Job file (TOML) of the new run: same model, any data and rules.")
    ],
    out: Annotated[Path, typer.Option(help="Folder that receives the new run; must be new or empty.")],
    number: Annotated[
        int | None, typer.Option("--round", min=0, help="Round after which; the newest by default.")
    ] = None,
    accept_unsound: Annotated[bool, typer.Option("--accept-unsound", help=UNSOUND)] = False,
) -> None:
    """Open a new run that goes on from a state of another one; its manifest names where it comes from."""
    from trainer.commands.report import read_state
    from trainer.folder import RunFolder
    from trainer.runs.create import create_run
    from trainer.runs.facts import ModelFacts
    from trainer.runs.job import read_job
    from trainer.runs.states import ancestor_of, kept_state

    folder = RunFolder(run).checked()
    facts, state = ModelFacts.read(folder), read_state(folder)
    kept = kept_state(folder, state, number)
    ancestor = ancestor_of(kept, state, facts)
    created = create_run(read_job(job), job.parent, out, typer.echo, accept_unsound, ancestor)
    created.folder.job.write_bytes(job.read_bytes())
    typer.echo(f"run created in {out}: it goes on from run {state.run.hex()[:16]} {kept.place}")


@app.command()
def serve(
    run: Folder,
    key: Annotated[
        Path | None, typer.Option(help="Key file that signs heads; keys/host.key by default, made at first.")
    ] = None,
    listen: Listen = LOCAL,
    announce: Announce = NONE,
    via: Via = NONE,
    relay: Relay = True,
    mdns: Mdns = True,
    upnp: Upnp = False,
) -> None:
    """Serve a run's ledger, and what was published with it, to peers that share no folder."""
    with loading():
        import trio

        from trainer.commands.serve import Service, host_identity, serve_run
        from trainer.folder import RunFolder

    folder = RunFolder(run).checked()
    outside = outside_of(announce, via, relay, mdns, upnp)
    service = Service(host_identity(folder, key), " ".join(listen), outside)
    trio.run(serve_run, folder, service, tell)


@app.command()
def invite(
    run: Folder,
    count: Annotated[int, typer.Option(min=1, max=1000, help="How many tickets.")] = 1,
    address: Annotated[
        list[str] | None,
        typer.Option(help="Multiaddress, with key, of the ledger's host; by default where it is served now."),
    ] = None,
    account: Annotated[bool, typer.Option(help="Put an unused account of the run into each ticket.")] = True,
) -> None:
    """Print tickets, one a line: each lets one machine in by 'proofswarm join TICKET'."""
    from trainer.commands.invite import invite as tickets_of
    from trainer.folder import RunFolder

    folder = RunFolder(run).checked()
    for ticket in tickets_of(folder, count, address or (), account, lambda line: typer.echo(line, err=True)):
        typer.echo(ticket)


@app.command()
def log(
    run: Folder,
    log_to: LogTo,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the run has ended.")] = False,
    evaluate_every: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Judge the state after every so many rounds, where the run was made, on held-out data.",
        ),
    ] = None,
) -> None:
    """Log a run's figures round by round, from any folder that has its ledger: a peer's, or its host's."""
    from trainer.commands.log import log_run
    from trainer.folder import RunFolder

    log_run(RunFolder(run).checked(), log_to, follow, evaluate_every, tell)


def outside_of(announce: list[str], via: list[str], relay: bool, mdns: bool, upnp: bool) -> "Outside":
    """Return how a peer is reached from outside; raises UserError for a relay without an address and key."""
    from p2p.listening import Outside, relays_named

    return Outside(" ".join(announce), relays_named(via), relays=relay, mdns=mdns, upnp=upnp)


def tell(line: str) -> None:
    """Print a line for people; a terminal that has gone away stops no peer."""
    with contextlib.suppress(OSError):
        typer.echo(line)
