"""What a peer has and gets: results whose blobs are lost, and what it does for nothing. (SPEC.md 9.3)"""

from collections.abc import Callable, Collection, Iterable
from typing import Any

from verification.honest.actions import (
    Action,
    Computed,
    FetchContribution,
    FetchState,
    Results,
    RunOuter,
    RunRound,
    Work,
)
from verification.state import Phase, State, state_before
from verification.units import Address, Digest, Round


def lost(state: State, results: Results, holds: Callable[[Digest], bool]) -> list[Computed]:
    """Return the actions whose results stand on blobs that are not held any more; forgotten, they are done again."""
    stands_on = ((action, _blob_of(state, action, result)) for action, result in results.done.items())
    return [action for action, blob in stands_on if blob is not None and not holds(blob)]


def _blob_of(state: State, action: Computed, result: Any) -> Digest | None:
    """Return the blob without which a result is worth nothing: once committed to, work is known by its digests."""
    match action:
        case FetchState(number):
            return state_before(state, number).blob
        case FetchContribution(number, worker) if result is True:
            return state.rounds[number].commits[worker].contribution.blob
        case RunOuter():
            blob: Digest = result.blob
            return blob
        case RunRound() if isinstance(result, Work) and _stands_on_work(state, action, result):
            return result.contribution.blob
    return None


def _stands_on_work(state: State, action: RunRound, work: Work) -> bool:
    return not work.failed and action.worker not in state.rounds[action.number].commits


def unwanted(
    state: State, own: Address, wanted: Collection[Action], running: Iterable[Computed]
) -> list[Computed]:
    """Return what runs for nothing at the peer `own`: fetches that nothing waits for, and work of its own that came too
    late. Others' attestations may still ask for a contribution in its round."""
    return [action for action in running if action not in wanted and _is_vain(state, own, action)]


def _is_vain(state: State, own: Address, action: Computed) -> bool:
    match action:
        case FetchContribution(number) | FetchState(number):
            return not _is_open(state, number)
        case RunRound(number, worker):
            return worker == own and state.rounds[number].phase is not Phase.COMMIT
    return False


def _is_open(state: State, number: Round) -> bool:
    """Return whether it is not decided yet what round `number` includes."""
    return number >= len(state.rounds) or state.rounds[number].phase in (Phase.COMMIT, Phase.ATTEST)
