"""How much one sender can put on the ledger, whatever it submits: a constant of the run's founding. (SPEC.md 3.10)

Every kind of statement says for what it is said once (`verification.placed.Once`); here that becomes a number. Each
is about one round, or about the whole run.
"""

from verification.manifest import Manifest
from verification.narrowing import lists_needed
from verification.placed import OfRun, Once
from verification.state import State
from verification.statements import KINDS, Body, Chunk, Evidence, Mismatch, Point, Reveal, Verdict
from verification.units import Round

LONGEST = lists_needed(1 << 53)
"""Lists that narrow the longest interval that a Count can name to one step, to one node, to one row, and so on."""

LISTS = 5 * LONGEST + 4
"""Lists of one dispute: of states, of nodes after the trace, of rows and blocks before a block's bytes, of ranges after
the totals of a number; and a failure's place."""


def subject(state: State, body: Body) -> Round | None:
    """Return the round that an admitted statement is about, None for the whole run."""
    match body:
        case Verdict() | Reveal():
            return body.work
        case Point() | Mismatch() | Evidence():
            return state.disputes[body.dispute].round
        case Chunk():
            return state.demands[body.demand].round
        case OfRun():
            return None
    return body.round


def most(kind: type[Body], manifest: Manifest, accounts: int) -> int:
    """Return how many statements of a kind one sender can have on the ledger about one round, or about the run.

    `accounts` are those of the founding: whoever speaks has one. Nobody disputes the same twice, so an accused has at
    most two disputes with each of them, about its work and about its seal.
    """
    slots = int(manifest.work.slots)
    # Of a crew each member commits, and may be in a dispute.
    workers = slots * max([1, *(len(cut.shards) for cut in manifest.cuts)])
    disputes = workers + accounts
    # While one round is the newest: its own close and with overlap the last one's, the sessions that it waits for, and
    # each demand set a member away.
    lapses = int(manifest.money.escrow_rounds) + 2 + manifest.work.overlap + workers * accounts
    counts = {
        Once.RUN: 1,
        Once.ROUND: 1,
        Once.LAPSE: 1 + lapses,
        Once.WORK: slots,
        Once.SEAL: accounts,
        Once.LIST: 2 * accounts * LISTS,
        Once.POINT: disputes * LISTS,
        Once.DISPUTE: disputes,
        Once.CONTRIBUTION: workers,
        Once.DEMAND: workers * accounts,
        Once.CONVICT: accounts,
    }
    return counts[kind.once]


def most_entries(manifest: Manifest, accounts: int) -> int:
    """Return how many statements one sender can have on the ledger about one round."""
    return sum(most(kind, manifest, accounts) for kind in KINDS.values() if not issubclass(kind, OfRun))
