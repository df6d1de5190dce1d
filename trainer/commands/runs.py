"""`proofswarm run`: make a run, serve its ledger, invite others. Heavy imports wait inside the commands."""

import contextlib
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Make runs, serve them, and invite others.")

Listen = Annotated[str, typer.Option(help="Multiaddress to listen on; port 0 lets the system choose.")]
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
    from trainer.runs.create import create_run
    from trainer.runs.job import read_job

    created = create_run(read_job(job), job.parent, out, typer.echo, accept_unsound)
    created.folder.job.write_bytes(job.read_bytes())
    typer.echo(
        f"run created in {out}: {created.nodes} nodes an inner step, {len(created.keys)} keys in {out}/keys"
    )
    typer.echo(f"join it with: proofswarm peer --run {out} --key {out}/keys/peer-0.key --role worker")


@app.command()
def serve(
    run: Folder,
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
    trio.run(serve_run, folder, host_identity(folder, key), listen, tell)


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


def tell(line: str) -> None:
    """Print a line for people; a terminal that has gone away stops no peer."""
    with contextlib.suppress(OSError):
        typer.echo(line)
