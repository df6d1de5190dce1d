"""A worker of ours for `bench wan`: what `join` does, with a compute process that keeps a pace and tells its steps.

    python -m benchmarks.opponents.peer REPORT STEP_SECONDS CORE TICKET FOLDER LISTEN

CORE is the one that the worker has to itself, or -1.
"""

import sys
from dataclasses import replace
from os import sched_setaffinity
from pathlib import Path

from trainer.commands.runs import outside_of
from trainer.compute.children import started

PACED = "benchmarks.opponents.pacing"


def main() -> None:
    """Take part until the run has ended."""
    report, seconds, core, ticket, folder, listen = sys.argv[1:]
    if int(core) >= 0:
        sched_setaffinity(0, {int(core)})  # before there are threads and children, which have it from here
    with started((PACED, report, seconds)) as compute:
        import trio

        from trainer.commands.join import Settings, config_of, read_ticket
        from trainer.peer.runtime import run_peer
        from verification.statements import WORKER

        outside = outside_of([], [], False, False, False)
        settings = Settings(WORKER, listen, outside, 1, None, None, "cpu", None, None, True)
        config = config_of(settings, read_ticket(ticket), Path(folder), None, print)
        trio.run(run_peer, replace(config, compute=compute))


if __name__ == "__main__":
    main()
