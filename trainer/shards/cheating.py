"""The compute process of a peer that cheats, for experiments: as `trainer.shards.computing`, with a cheat's engine.

Started as `python -m trainer.shards.cheating CHEAT FIRST_ROUND`.
"""

import sys

from trainer.compute import process
from trainer.rounds.cheats import conduct_named
from trainer.shards.false_crossings import FALSE_CROSSINGS
from trainer.shards.frugal import fitting


def main() -> None:
    """Serve on the standard streams; raises UserError for an unknown cheat."""
    cheat, first_round = sys.argv[1:]
    process.main(conduct_named(cheat, int(first_round), FALSE_CROSSINGS), fitting)


if __name__ == "__main__":
    main()
