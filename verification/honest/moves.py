"""What a party of a dispute says next: its own lists and nodes, or where the other's differ. (SPEC.md 5)"""

from collections.abc import Iterator
from functools import partial

from verification.claims import Judged, Split
from verification.honest.actions import (
    Action,
    Computed,
    FetchState,
    ListStates,
    OpenClaim,
    OpenValue,
    Results,
    Say,
    SplitClaim,
    Traced,
    TraceProgram,
)
from verification.honest.within import contested, own_list
from verification.narrowing import (
    Tracing,
    entries_of,
    first_change,
    first_difference,
    positions,
    segments,
)
from verification.state import Dispute, State
from verification.statements import Answer, Evidence, Mismatch, NodeList, Point, Trace
from verification.units import Count, Digest


def moves_in(state: State, dispute: Dispute, results: Results) -> Iterator[Action]:
    """Make one move; a computation it needs comes first, and the round's start state before that."""
    game = dispute.game
    if game.trace is None and game.high - game.low > 1:
        steps = positions(game.low, game.high)
        action: Computed = ListStates(dispute.round, dispute.accused, steps)
        move = partial(_list_or_point, dispute)
    else:
        action = TraceProgram(dispute.execution)
        move = partial(_trace_or_point, dispute, results)
    if action in results.done:
        yield move(results.done[action])
    else:
        yield action if FetchState(dispute.round) in results.done else FetchState(dispute.round)


def _list_or_point(dispute: Dispute, own: tuple[Digest, ...]) -> Action:
    """List states, or name the first that differs; a challenger that finds none can only name the last."""
    game = dispute.game
    if game.entries is None:
        return Say(Answer(dispute.round, Count(game.low), Count(game.high), own))
    index = first_change(game.entries, own)
    last = len(own) - 1
    return Say(Point(Count(dispute.number), Count(dispute.level), Count(last if index is None else index)))


def _trace_or_point(dispute: Dispute, done: Results, own: Traced) -> Action:
    """Open the execution or a segment of it; contest the first result or output that differs; bring its inputs."""
    game, number = dispute.game, Count(dispute.number)
    if game.node is not None:
        return _within(dispute, game.node, done)
    if game.trace is None or game.entries is None:
        return Say(_node_list(dispute, own))
    # Where one's own execution fails, everything from there on differs: even the digest of that very failure, when the
    # accused goes on after it.
    ends_alike = own.failed is None or own.failed == game.trace.failed
    results = own.results if ends_alike else own.results[:-1]
    index = first_difference(game.trace, game.entries, results)
    output = _wrong_output(game.trace, own, index) if index is None or game.given else None
    if output is not None:
        trail = (*game.trail, (game.trace.low, game.trace.high, game.entries))
        value = OpenValue(dispute.execution, game.trace.sources[output], trail)
        if value not in done.done:
            return value
        return Say(Mismatch(number, Count(output), *done.done[value]))
    last = len(game.entries) - 1
    return Say(Point(number, Count(dispute.level), Count(last if index is None else index)))


def _within(dispute: Dispute, node: int, done: Results) -> Action:
    """List what one's own node gives, contest the first entry that differs, or bring what is left to be read."""
    game, execution = dispute.game, dispute.execution
    assert game.claim is not None
    assert game.result is not None
    if not game.awaited:
        assert isinstance(game.claim, Judged)
        opening = OpenClaim(execution, node, game.claim, game.trail)
        return Say(Evidence(Count(dispute.number), done.done[opening])) if opening in done.done else opening
    assert isinstance(game.claim, Split)
    action = SplitClaim(execution, node, game.claim)
    if action not in done.done:
        return action
    if game.listed is None:
        return Say(own_list(game.claim, done.done[action], execution, node))
    index = contested(game.result, game.claim, game.listed, done.done[action])
    return Say(Point(Count(dispute.number), Count(dispute.level), Count(index)))


def _wrong_output(trace: Tracing, own: Traced, index: int | None) -> int | None:
    """Return the first output that is not what its source gives, of which all is agreed; None without one.

    Of what a member of a crew has given all that comes later may differ, for its neighbours had that. (SPEC.md 4.17)
    """
    agreed = trace.high if index is None else segments(trace.low, trace.high)[index][0]
    mine = own.outputs if trace.failed is None else own.results[trace.failed - trace.first :][:1]
    pairs = zip(trace.outputs, mine, trace.sources, strict=False)
    return next(
        (
            place
            for place, (claimed, right, source) in enumerate(pairs)
            if claimed != right and source - trace.first < agreed
        ),
        None,
    )


def _node_list(dispute: Dispute, own: Traced) -> Trace | NodeList:
    place, step = dispute.place, dispute.execution.step
    if dispute.game.trace is None:
        entries = entries_of(own.results, 0, len(own.results))
        failed = None if own.failed is None else Count(own.failed)
        return Trace(dispute.round, place, step, failed, own.outputs, entries)
    low, high = dispute.game.trace.low, dispute.game.trace.high
    return NodeList(dispute.round, place, step, Count(low), Count(high), entries_of(own.results, low, high))
