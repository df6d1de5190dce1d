"""The compute process of a peer: as `trainer.compute.process`, and where a run needs more memory than there is frugal.

Started as `python -m trainer.shards.computing`.
"""

from trainer.loading import loading

with loading():
    from trainer.compute import process
    from trainer.rounds.engine import honest
    from trainer.shards.frugal import fitting

if __name__ == "__main__":
    process.main(honest, fitting)
