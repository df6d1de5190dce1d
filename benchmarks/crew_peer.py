"""A worker of `bench crews`: what `join` does, with a compute process that may keep a pace and reports (`crew_pace`).

    python -m benchmarks.crew_peer REPORT SPEED CORE SHARD CUT TICKET FOLDER LISTEN

CORE is the one that the worker has to itself, or -1; SHARD is counted from 1, and 0 for one that has the whole model.
"""

import sys
from dataclasses import replace
from os import sched_setaffinity
from pathlib import Path

from trainer.commands.runs import outside_of
from trainer.compute.children import started

PACED = "benchmarks.crew_pace"


def main() -> None:
    """Take part until the run has ended."""
    report, speed, core, shard, cut, ticket, folder, listen = sys.argv[1:]
    if int(core) >= 0:
        sched_setaffinity(0, {int(core)})  # before there are threads and children, which have it from here
    with started((PACED, report, speed)) as compute:
        import trio

        from trainer.commands.join import Settings, config_of, read_ticket
        from trainer.peer.runtime import run_peer
        from verification.statements import WORKER

        outside = outside_of([], [], False, False, False)
        settings = Settings(
            WORKER, listen, outside, 1, None, None, "cpu", None, None, True, int(shard) or None, int(cut)
        )
        config = config_of(settings, read_ticket(ticket), Path(folder), None, print)
        trio.run(run_peer, replace(config, compute=compute))


if __name__ == "__main__":
    main()
