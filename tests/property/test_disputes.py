"""Disputes down to one node: any lie about an execution is convicted at its first wrong node, within the bound."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.duel import FIRST
from simulator.toy import FATAL
from tests.property.duel import ACCUSED, CHALLENGER, Duel, Lie, said
from verification import audits
from verification.audits import salted_root
from verification.causes import Cause
from verification.claims import Value
from verification.digest import ZERO, tagged
from verification.errors import BadEvidence, Violation
from verification.library import Now, failed
from verification.manifest import BundleRef, Place
from verification.narrowing import entries_of, first_difference, lists_needed
from verification.program import first_node, size_bytes
from verification.state import Ruling, Turn
from verification.statements import Answer, Commit, Evidence, Mismatch, NodeList, Opening, Point, Trace
from verification.tensors import ITEM_BYTES, Tensor, tensor_digest
from verification.units import Count, Digest, Millis

WRONG = tagged("wrong")
WORKED = [Place.PROLOGUE, Place.STEP, Place.EPILOGUE]
places = st.sampled_from(WORKED)


def wrong(number: int) -> Digest:
    """Return a digest that nothing true has."""
    return tagged("wrong", bytes([number % 251]))


def altered_tensor(tensor: Tensor, place: int) -> Tensor:
    """Return a tensor with another number, which its dtype can hold."""
    size = ITEM_BYTES[tensor.dtype]
    data = bytearray(tensor.data)
    data[place % (len(data) // size) * size] ^= 1
    return Tensor(tensor.dtype, tensor.shape, bytes(data))


def with_results(duel: Duel, truth: Lie, altered: set[int]) -> Lie:
    """Return a lie that has another number in some nodes, and in its outputs where these nodes are outputs.

    Where none is, the first output is false: a lie that nobody could see is none.
    """
    program = duel.library.program(truth.program)
    first = first_node(program)
    true = {place: duel.held(truth, first + place).made for place in altered}
    made = {place: altered_tensor(tensor, 3 * place) for place, tensor in true.items() if tensor is not None}
    results = [
        tensor_digest(made[place]) if place in made else value for place, value in enumerate(truth.results)
    ]
    outputs = [
        results[output.source - first] if output.source >= first else value
        for output, value in zip(program.outputs, truth.outputs, strict=True)
    ]
    if tuple(outputs) == truth.outputs:
        outputs[0] = WRONG
    return dataclasses.replace(truth, results=tuple(results), outputs=tuple(outputs), made=made)


@given(places, st.sampled_from([(1, 60), (2, 200), (3, 0), (70, 0)]), st.data())
@settings(max_examples=40, deadline=None)
def test_any_lie_is_convicted_at_its_first_wrong_node(
    place: Place, sizes: tuple[int, int], data: st.DataObject
) -> None:
    """A cheat may alter any results and any outputs; what is wrong first is named, an output before what stands behind
    its source, and nothing else decides."""
    steps, chain = sizes
    duel = Duel(steps, chain)
    step = data.draw(st.integers(1, steps)) if place is Place.STEP else 0
    truth = duel.truth(place, step)
    altered = data.draw(st.sets(st.integers(0, len(truth.results) - 1), max_size=3))
    lie = with_results(duel, truth, altered)
    extra = data.draw(st.sets(st.integers(0, len(lie.outputs) - 1), max_size=2))
    outputs = [wrong(200 + i) if i in extra else value for i, value in enumerate(lie.outputs)]
    lie = dataclasses.replace(lie, outputs=tuple(outputs))
    duel.open(lie)
    dispute = duel.play(lie)
    assert (dispute.ruling, dispute.place) == (Ruling.GUILTY, place)
    assert place is not Place.STEP or dispute.game.high == step
    program = duel.library.program(truth.program)
    first = first_node(program)
    agreed = first + min(altered, default=len(program.nodes))
    sources = [int(output.source) for output in program.outputs]
    given = [lie.results[n - first] if n >= first else truth.outputs[at] for at, n in enumerate(sources)]
    shown = [at for at, n in enumerate(sources) if n < agreed and lie.outputs[at] != given[at]]
    if altered and not shown:
        claim = dispute.game.claim
        assert dispute.game.node == first + min(altered)
        assert isinstance(claim, Value)
        assert claim.index == 3 * min(altered) % dispute.game.result.grid.numbers
        assert dispute.right != claim.claimed
    else:
        assert dispute.computed not in (None, dispute.game.claimed)


@given(places, st.integers(0, 90), st.booleans(), st.sampled_from([0, 90]), st.data())
@settings(max_examples=30, deadline=None)
def test_a_failure_that_is_none_is_convicted(
    place: Place, number: int, is_shown: bool, chain: int, data: st.DataObject
) -> None:
    """The cheat may list the failure itself, or answer honestly one level down."""
    duel = Duel(3, chain)
    step = data.draw(st.integers(1, 3)) if place is Place.STEP else 0
    truth = duel.truth(place, step)
    at = number % len(truth.results)
    node = first_node(duel.library.program(truth.program)) + at
    last = failed(truth.program, node) if is_shown else truth.results[at]
    lie = dataclasses.replace(truth, results=(*truth.results[:at], last), failed=node)
    duel.open(lie)
    dispute = duel.play(lie)
    assert (dispute.ruling, dispute.game.node) == (Ruling.GUILTY, node)
    if is_shown:
        assert dispute.cause in (Cause.FAILS_NOT, Cause.FAILS_NOWHERE)
    else:
        assert (dispute.cause, dispute.computed) == (Cause.WRONG_OUTPUT, truth.results[at])


@given(st.sampled_from([0, 80]), st.sampled_from(["garbage", "failure"]), st.booleans())
@settings(max_examples=12, deadline=None)
def test_a_failure_that_is_hidden_is_convicted(chain: int, leaf: str, is_first: bool) -> None:
    """The true execution fails; the cheat goes on, with garbage in its place or even with the failure's own digest."""
    duel = Duel(2, chain, first=FATAL)
    truth = duel.truth(Place.STEP, 1)
    assert truth.failed is not None
    assert duel.honest.claim()[1] == truth.claim
    program = duel.library.program(truth.program)
    results = [wrong(i) for i in range(len(program.nodes))]
    results[: len(truth.results)] = truth.results
    at, made = truth.failed - first_node(program), dict[int, Tensor]()
    if leaf == "garbage":
        node = program.nodes[at]
        made[at] = Tensor(node.dtype, node.shape, bytes(size_bytes(node)))
        results[at] = tensor_digest(made[at])
    outputs = (results[-2], results[-1], wrong(9))
    lie = dataclasses.replace(truth, results=tuple(results), outputs=outputs, failed=None, made=made)
    duel.open(lie)
    dispute = duel.play(lie)
    assert (dispute.ruling, dispute.game.node) == (Ruling.GUILTY, truth.failed)
    if leaf == "failure":
        assert dispute.cause is Cause.TRACE_GOES_ON
    else:
        assert dispute.cause in (Cause.WRONG_NUMBER, Cause.WRONG_RANGE)
        assert dispute.right is None


def after_the_failure(step: int) -> Lie:
    """Return the trace of a step that would be right in a round that does not fail."""
    return Duel(3).truth(Place.STEP, step)


@pytest.mark.parametrize("step", [2, 3])
def test_an_opening_that_goes_on_after_a_failure_is_refused(step: int) -> None:
    """The next step has no inputs to show, so nobody could prove anything about it: it must not become a claim."""
    duel = Duel(3, first=FATAL, leaf_every=1)
    with pytest.raises(BadEvidence, match="follows a state that stands for a failure"):
        duel.open(after_the_failure(step))
    assert not duel.state.disputes


@pytest.mark.parametrize("is_honest", [True, False])
def test_the_law_takes_an_opening_only_if_a_failure_stays(is_honest: bool) -> None:
    duel = Duel(3, first=FATAL, leaf_every=1)
    failing = duel.states[1]
    digests = (duel.states[0], failing, failing if is_honest else WRONG, failing)
    salts = (WRONG,) * 4
    worked, state = duel.state.rounds[0], duel.state
    ref = BundleRef(failing, failing)
    root = salted_root(state.run, FIRST, digests, salts)
    worked.commits[ACCUSED] = Commit(FIRST, worked.start.digest, root, ref, Count(0), ZERO)
    worked.asked.add(ACCUSED)
    opening = Opening(FIRST, digests, salts)
    if is_honest:
        audits.process_opening(state, said(ACCUSED, opening), Now(Millis(1), duel.library))
        assert (worked.openings, worked.failures) == ({ACCUSED: opening}, {ACCUSED: failing})
    else:
        with pytest.raises(BadEvidence, match="follows a state that stands for a failure"):
            audits.process_opening(state, said(ACCUSED, opening), Now(Millis(1), duel.library))
        assert (worked.openings, worked.failures) == ({}, {})


def test_a_list_that_goes_on_after_a_failure_convicts_its_author() -> None:
    """The same between two leaves, where only a list shows it."""
    duel = Duel(3, first=FATAL)
    lie = after_the_failure(2)
    duel.open(lie)
    assert (duel.dispute.game.low, duel.dispute.game.high) == (0, 3)
    dispute = duel.play(lie)
    assert dispute.ruling is Ruling.GUILTY
    assert dispute.cause is Cause.STATES_GO_ON


@pytest.mark.parametrize("leaf_every", [1, 3])
def test_who_accuses_what_follows_a_failure_loses(leaf_every: int) -> None:
    """The accused could not trace a step from a failure either; the law needs no list to see that it is right."""
    duel = Duel(3, first=FATAL, leaf_every=leaf_every)
    truth = duel.truth(Place.STEP, 1)
    duel.open(truth, after_the_failure(2))
    if leaf_every == 3:
        duel.say(ACCUSED, duel.accused_says(truth))
        duel.say(CHALLENGER, Point(Count(0), Count(0), Count(1)))
    assert duel.dispute.ruling is Ruling.INNOCENT
    assert duel.state.members[ACCUSED].stake == 10_000
    assert duel.state.members[CHALLENGER].stake == 9_000
    assert (0, ACCUSED) in duel.state.redraws


@pytest.mark.parametrize("place", WORKED)
@pytest.mark.parametrize("chain", [0, 100])
def test_a_challenger_that_saw_something_else_loses_against_the_truth(place: Place, chain: int) -> None:
    """Only its own bond is at stake, and the audit is drawn again: a lost challenge finalises nothing."""
    duel = Duel(1, chain)
    truth = duel.truth(place, 1 if place is Place.STEP else 0)
    seen = with_results(duel, truth, {len(truth.results) // 2})
    duel.open(truth, seen)
    while duel.dispute.ruling is None:
        if duel.dispute.turn is Turn.LIST:
            duel.say(ACCUSED, duel.accused_says(truth))
        else:
            duel.say(CHALLENGER, duel.challenger_says(seen))
    assert duel.dispute.ruling is Ruling.INNOCENT
    assert duel.state.members[ACCUSED].stake == 10_000
    assert duel.state.members[CHALLENGER].stake == 9_000
    assert (0, ACCUSED) in duel.state.redraws


def _damaged(body: Any, draw: Callable[..., Any]) -> Any:
    """Return a challenger's move with one part of it altered."""
    match body:
        case Point():
            return dataclasses.replace(body, index=draw(st.integers(0, 70)))
        case Mismatch():
            field = draw(st.sampled_from(["output", "digest", "path"]))
            value = {"output": draw(st.integers(0, 9)), "digest": WRONG, "path": (*body.path, WRONG)}[field]
            return dataclasses.replace(body, **{field: value})
        case Evidence() if body.inputs:
            place = draw(st.integers(0, len(body.inputs) - 1))
            old = body.inputs[place]
            block, *rest = old.blocks
            data = bytearray(block.data)
            data[draw(st.integers(0, len(data) - 1))] ^= 1
            changed = draw(
                st.sampled_from(
                    [
                        {"blocks": (dataclasses.replace(block, data=bytes(data)), *rest)},
                        {"blocks": (dataclasses.replace(block, row=Count(block.row + 1)), *rest)},
                        {"blocks": (dataclasses.replace(block, in_row=(*block.in_row, WRONG)), *rest)},
                        {"blocks": (block, *old.blocks)},
                        {"path": (*old.path, WRONG)},
                        {"value": Count(old.value + 1)},
                    ]
                )
            )
            inputs = [*body.inputs]
            inputs[place] = dataclasses.replace(old, **changed)
            return dataclasses.replace(body, inputs=tuple(inputs))
    return dataclasses.replace(body, dispute=Count(7))


@given(places, st.sampled_from([0, 70]), st.data())
@settings(max_examples=40, deadline=None)
def test_an_honest_accused_never_loses_to_any_challenger(
    place: Place, chain: int, data: st.DataObject
) -> None:
    """The challenger points anywhere and damages what it brings: refused moves change nothing, admitted ones acquit."""
    duel = Duel(2, chain, leaf_every=1)
    truth = duel.truth(place, data.draw(st.integers(1, 2)) if place is Place.STEP else 0)
    seen = with_results(duel, truth, {data.draw(st.integers(0, len(truth.results) - 1))})
    duel.open(truth, seen)
    for _ in range(duel.bound + 4):
        if duel.dispute.ruling is not None:
            break
        if duel.dispute.turn is Turn.LIST:
            duel.say(ACCUSED, duel.accused_says(truth))
            continue
        body = duel.challenger_says(seen)
        try:
            duel.say(CHALLENGER, _damaged(body, data.draw) if data.draw(st.booleans()) else body)
        except Violation:
            duel.check()
    assert duel.dispute.ruling in (None, Ruling.INNOCENT)
    assert duel.state.members[ACCUSED].stake == 10_000


@given(st.sampled_from(["length", "fold", "outputs", "failure", "empty", "late"]), st.sampled_from([70]))
@settings(max_examples=12, deadline=None)
def test_a_list_that_is_wrong_in_itself_convicts_its_author_at_once(how: str, chain: int) -> None:
    duel = Duel(70, chain)
    truth = duel.truth(Place.STEP, 33)
    lie = with_results(duel, truth, {chain - 3})
    duel.open(lie)
    causes = {"length": Cause.STATES_TOO_FEW, "fold": Cause.STATES_END, "empty": Cause.STATES_TOO_FEW}
    causes |= {"outputs": Cause.TRACE_OUTPUTS, "failure": Cause.TRACE_FAILS_ELSE, "late": Cause.NODES_FOLD}
    kinds = {"outputs": Trace, "failure": Trace, "late": NodeList}
    while duel.dispute.ruling is None:
        body: Any = duel.accused_says(lie) if duel.dispute.turn is Turn.LIST else duel.challenger_says()
        if isinstance(body, kinds.get(how, Answer)):
            body = _broken(body, how)
        duel.say(ACCUSED if isinstance(body, Answer | Trace | NodeList) else CHALLENGER, body)
    assert duel.dispute.ruling is Ruling.GUILTY
    assert duel.dispute.cause is causes[how]
    assert duel.state.members[CHALLENGER].rewards > 0


def _broken(body: Any, how: str) -> Any:
    match how:
        case "length":
            return dataclasses.replace(body, entries=body.entries[1:])
        case "empty":
            return dataclasses.replace(body, entries=())
        case "outputs":
            return dataclasses.replace(body, outputs=(*body.outputs[:-1], WRONG))
        case "failure":
            return dataclasses.replace(body, failed=Count(3), outputs=())
    return dataclasses.replace(body, entries=(*body.entries[:-1], WRONG))


def test_a_list_for_another_place_is_refused_and_convicts_nobody() -> None:
    duel = Duel(70)
    lie = with_results(duel, duel.truth(Place.STEP, 33), {0})
    duel.open(lie)
    body = duel.accused_says(lie)
    assert isinstance(body, Answer)
    others: list[Any] = [dataclasses.replace(body, high=Count(3)), dataclasses.replace(body, round=9)]
    others.append(Trace(body.round, Place.STEP, Count(33), None, (WRONG,), (WRONG,)))
    for other in others:
        with pytest.raises(Violation):
            duel.say(ACCUSED, other)
    with pytest.raises(Violation):
        duel.say(CHALLENGER, body)
    assert duel.dispute.ruling is None


@given(st.integers(1, 9_000), st.data())
@settings(max_examples=30, deadline=None)
def test_a_trace_of_any_length_narrows_to_its_first_wrong_leaf(length: int, data: st.DataObject) -> None:
    from verification.narrowing import Tracing, fold, nodes_fault, segments

    leaves = [tagged("leaf", i.to_bytes(4, "big")) for i in range(length)]
    place = data.draw(st.integers(0, length - 1))
    other = [*leaves[:place], *(wrong(i) for i in range(place, length))]
    top = fold(0, length, entries_of(other, 0, length))
    tracing = Tracing(WRONG, 0, length, WRONG, top, 0, length, (), (), None)
    lists = 0
    while True:
        entries = entries_of(other, tracing.low, tracing.high)
        nodes = NodeList(0, "", Count(0), Count(tracing.low), Count(tracing.high), entries)  # type: ignore[arg-type]
        assert nodes_fault(tracing, nodes) is None
        assert (
            nodes_fault(tracing, dataclasses.replace(nodes, entries=(WRONG, *entries[1:])))
            is Cause.NODES_FOLD
        )
        index = first_difference(tracing, entries, leaves)
        assert index is not None
        low, high = segments(tracing.low, tracing.high)[index]
        lists += 1
        if tracing.high - tracing.low <= 64:
            assert low == place
            break
        tracing = dataclasses.replace(tracing, low=low, high=high, top=entries[index])
    assert lists == max(1, lists_needed(length))
    assert first_difference(tracing, leaves[tracing.low : tracing.high], leaves) is None
