"""A cheat is an engine: what it claims in a dispute is what it trained, and F is the same for it as for everyone."""

from typing import Any

import pytest

from simulator.toy import DATA, START, ToyEngine, minimal, vector
from trainer.rounds import reexecution
from trainer.rounds.cheats import CHEATS, conduct_named
from trainer.rounds.engine import Engine, Job, honest
from trainer.rounds.training import Rounds
from verification.digest import tagged
from verification.errors import Unsound
from verification.manifest import Place
from verification.tensors import Bundle, Tensor, bundle_digest, digest_of
from verification.units import Address, Digest, Round

FIRST, STEPS = 1, 11
MANIFEST = minimal()
STATES = [START, *(Bundle((vector(range(n, n + 4)), START.tensors[1])) for n in (3, 8, 20))]
EVERY = tuple(range(STEPS + 1))


class TornEngine(ToyEngine):
    """A machine that gets another last number each time."""

    def __init__(self) -> None:
        self._runs = 0

    def run(self, *given: Any, **named: Any) -> tuple[Tensor, ...]:
        """Execute, and spoil the first tensor."""
        self._runs += 1
        return vector([self._runs] * 4), *super().run(*given, **named)[1:]


def job(number: int) -> Job:
    """Return a worker's round."""
    return Job(Round(number), Address(b"\x07" * 20), tagged("beacon", bytes([number])), STEPS)


def claimed(engine: Engine, number: int, place: Place, step: int = 0) -> Digest:
    """Return the digest of the outputs that an execution's trace tells, with every node's result, as often as asked."""
    disputed = Rounds(engine, MANIFEST, DATA).disputed(job(number), STATES[number].tensors, place, step)
    traced = reexecution.trace(engine, disputed)
    assert len(traced.results) == len(engine.program(disputed.program).nodes)
    assert reexecution.trace(engine, disputed) == traced
    return bundle_digest(traced.outputs)


@pytest.mark.parametrize("name", CHEATS)
def test_a_cheat_stands_in_a_dispute_by_what_it_trained(name: str) -> None:
    """Each order has an engine of its own, as in the compute process; what a cheat keeps of other rounds is older."""
    conduct = conduct_named(name, FIRST)
    for number, state in enumerate(STATES):

        def engine(number: int = number) -> Engine:
            return conduct(ToyEngine(), job(number))

        outcome = Rounds(engine(), MANIFEST, DATA).run(job(number), state.tensors)
        assert outcome.contribution is not None
        listed = Rounds(engine(), MANIFEST, DATA).digests_after(job(number), state.tensors, EVERY)
        assert claimed(engine(), number, Place.PROLOGUE) == listed[0]
        for step in EVERY[1:]:
            assert claimed(engine(), number, Place.STEP, step) == listed[step]
        assert claimed(engine(), number, Place.EPILOGUE) == digest_of(outcome.contribution)


@pytest.mark.parametrize("name", sorted(CHEATS.keys() - {"none"}))
def test_a_cheat_cheats_in_its_rounds_and_in_no_others(name: str) -> None:
    conduct, last = conduct_named(name, FIRST), CHEATS[name].rounds
    differs = []
    for number, state in enumerate(STATES):
        own, right = (
            Rounds(engine, MANIFEST, DATA).run(job(number), state.tensors)
            for engine in (conduct(ToyEngine(), job(number)), ToyEngine())
        )
        differs.append(own != right)
    end = len(STATES) if last is None else FIRST + last
    assert differs == [FIRST <= number < end for number in range(len(STATES))]


def test_a_cheat_finds_no_fault_with_itself_and_an_engine_does() -> None:
    """The self-check of SPEC.md 9.6 asks the engine that computed the round."""
    sound, first = ToyEngine(), job(FIRST)
    rounds = Rounds(sound, MANIFEST, DATA)
    before = rounds.disputed(first, STATES[FIRST].tensors, Place.STEP, 1).inputs
    inner = MANIFEST.programs.inner.digest
    made, broken = sound.run(inner, [before]), TornEngine()
    assert sound.advance(inner, before, is_checked=True) == made
    with pytest.raises(Unsound):
        broken.advance(inner, before, is_checked=True)
    assert broken.advance(inner, before) not in (None, made)
    cheat = conduct_named("one-bit", FIRST)(broken, first)
    cheat.advance(inner, before, is_checked=True)
    assert conduct_named("one-bit", FIRST)(sound, job(0)) is sound is honest(sound, first)
