"""The compute process of a peer that cheats, for experiments: as `trainer.compute.process`, with a cheat's engine.

Started as `python -m trainer.compute.cheating CHEAT FIRST_ROUND`.
"""

import sys

from trainer.compute import process
from trainer.rounds.cheats import conduct_named


def main() -> None:
    """Serve on the standard streams; raises UserError for an unknown cheat."""
    cheat, first_round = sys.argv[1:]
    process.main(conduct_named(cheat, int(first_round)))


if __name__ == "__main__":
    main()
