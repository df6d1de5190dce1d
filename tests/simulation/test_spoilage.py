"""Contributions that are not what their commitment says: convicted by their own bytes, included by nobody."""

import dataclasses
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.cast import Actor, Verifier, Worker
from simulator.invariants import Invariants
from simulator.toy import PROGRAMS, ToyLibrary, minimal, reference, vector
from simulator.world import World
from tests.property.strategies import tensors
from trainer.rounds.cheats import conduct_named
from verification import codec
from verification.adversaries import Mute, View, WrongBytes
from verification.causes import Cause
from verification.content import address_of_bytes, chunks_root
from verification.debts import OpeningDebt
from verification.digest import ZERO, tagged
from verification.effects import AuditEnded, Slashed
from verification.errors import BadEvidence, Malformed, Violation
from verification.evidence.collect import convictions
from verification.evidence.file import Conviction, pack
from verification.evidence.retrial import verify
from verification.honest.actions import (
    FetchContribution,
    Say,
    Work,
)
from verification.manifest import BundleRef
from verification.program import Port, encoded_size, outputs_of
from verification.signed import open_statement
from verification.spoilage import fault, show_spoiled
from verification.state import Audit, Standing, Watch
from verification.statements import Commit, Opening, Spoiled
from verification.tensors import Bundle, digest_of
from verification.units import MILLION, Address, Count, Round

GARBAGE = b"\xc1" * 83
"""As long as a toy's contribution, and no msgpack."""

SHORT = b"garbage"


class Spoil(WrongBytes):
    """Spoils its contribution in a chosen way, in one round."""

    def __init__(self, how: Callable[[View, Work], Work], at: int = 1) -> None:
        """`how` makes what is committed to, in round `at`."""
        super().__init__()
        self._how, self._at = how, at

    def result(self, view: View, action: object, compute: Callable[[], object]) -> object:
        """Leave the other rounds alone."""
        return (
            super().result(view, action, compute)
            if getattr(action, "number", None) == self._at
            else compute()
        )  # type: ignore[arg-type]

    def spoil(self, view: View, work: Work) -> Work:
        """Spoil."""
        return self._how(view, work)


def with_blob(data: bytes) -> Callable[[View, Work], Work]:
    """Return how to commit to the right digest over some bytes."""
    ref = lambda work: BundleRef(work.contribution.digest, address_of_bytes(data))  # noqa: E731
    return lambda view, work: dataclasses.replace(work, contribution=ref(work))


OTHER = Bundle((vector([9, 9, 9, 9]), vector([36]), vector([1])))
RESHAPED = Bundle((vector([1, 2, 3]), vector([6, 0]), vector([1])))
WAYS: dict[str, tuple[Callable[[View, Work], Work], Cause]] = {
    "garbage": (with_blob(GARBAGE), Cause.SPOILED_BYTES),
    "too short": (with_blob(SHORT), Cause.SPOILED_SIZE),
    "another bundle": (with_blob(codec.encode(OTHER)), Cause.SPOILED_BUNDLE),
    "the start state": (WrongBytes().spoil, Cause.SPOILED_SIZE),
    "another shape": (
        lambda view, work: dataclasses.replace(work, contribution=reference(RESHAPED)),
        Cause.SPOILED_SHAPES,
    ),
    "another norm": (
        lambda view, work: dataclasses.replace(work, norm=Count(work.norm + 1)),
        Cause.SPOILED_NORM,
    ),
}


def world_of(cheat: Actor, seed: int = 3, **changes: int) -> World:
    """Return the finished run of a cheat among honest peers, to whom some bytes are known that are none of a run."""
    others: list[Actor] = [Worker("w0"), Worker("w1", speed=60), Verifier("v0"), Verifier("v1")]
    rules = {"audit_rate": MILLION, "rounds": 4, "min_workers": 3, "min_verifiers": 2, **changes}
    world = World(minimal(**rules), [cheat, *others], random.Random(seed), check=Invariants(others))
    for data in (GARBAGE, SHORT):
        world.blobs.throw(data)
    for bundle in (OTHER, RESHAPED):
        world.blobs.put(bundle)
    world.run()
    return world


def files_of(world: World) -> dict[str, Conviction]:
    """Return a run's convictions."""
    statements = [line.data for line in world.ledger.log if line.kind == "statement"]
    return convictions(world.state, statements, world.ledger.effects, ToyLibrary().program)


@pytest.mark.parametrize("way", WAYS)
def test_a_spoiled_contribution_costs_what_a_lie_costs_and_counts_as_none(way: str) -> None:
    spoil, cause = WAYS[way]
    behaviour = Spoil(spoil)
    cheat = Worker("cheat", behaviour)
    world = world_of(cheat)
    assert behaviour.faults > 0
    (slashed,) = world.seen(Slashed)
    assert (slashed.address, slashed.stake) == (cheat.address, 1_000)
    assert slashed.escrow > 0
    assert slashed.rewarded == -(-(slashed.stake + slashed.escrow) // 2)
    assert slashed.reason.cause is cause
    assert cheat.address not in world.state.rounds[1].included
    assert cheat.address in world.state.rounds[0].included
    assert not world.state.disputes
    assert world.member(cheat).standing is Standing.EXCLUDED
    assert world.member(cheat).rewards == 0


@pytest.mark.parametrize("way", WAYS)
def test_its_file_convinces_with_nothing_on_trust(way: str) -> None:
    spoil, cause = WAYS[way]
    cheat = Worker("cheat", Spoil(spoil))
    ((name, conviction),) = files_of(world_of(cheat)).items()
    finding = verify(pack(conviction))
    assert name == "spoiled-1"
    assert (finding.kind, finding.accused, finding.round) == ("spoiled", cheat.address, 1)
    assert finding.trust == ()
    assert finding.reason.cause is cause


def test_a_file_about_other_bytes_another_round_or_another_program_is_refused() -> None:
    conviction = next(iter(files_of(world_of(Worker("cheat", Spoil(WAYS["garbage"][0])))).values()))
    world = world_of(Worker("other", Spoil(WAYS["another norm"][0])))
    other = next(iter(files_of(world).values()))
    commit, shown = conviction.statements
    assert conviction.program is not None
    honest = next(
        line.data
        for line in world.ledger.log
        if line.kind == "statement" and isinstance(open_statement(line.data).body, Commit)
    )
    forged = [
        dataclasses.replace(conviction, statements=(commit,)),
        dataclasses.replace(conviction, statements=(shown, commit)),
        dataclasses.replace(conviction, statements=(honest, shown)),
        dataclasses.replace(conviction, statements=(commit, other.statements[1])),
        dataclasses.replace(conviction, round=Round(0)),
        dataclasses.replace(conviction, accused=world.actors[1].address),
        dataclasses.replace(conviction, program=None),
        dataclasses.replace(conviction, program=dataclasses.replace(conviction.program, nodes=())),
        dataclasses.replace(
            conviction, program=dataclasses.replace(conviction.program, nodes_root=tagged("other"))
        ),
    ]
    for file in forged:
        with pytest.raises(Violation):
            verify(pack(file))


def test_audits_of_it_are_paid_and_a_withheld_opening_is_not_paid_for_twice() -> None:
    """Shown at the very end of the attest phase or long after: a worker pays once for a round."""
    cheat = Worker("cheat", Spoil(WAYS["another norm"][0]), Mute(Opening), conduct=conduct_named("noise", 1))
    world = world_of(cheat)
    assert len([s for s in world.seen(Slashed) if s.reason.round == 1]) == 1
    audits = [e for e in world.seen(AuditEnded) if (e.work, e.worker) == (1, cheat.address)]
    assert all(e.outcome is Audit.VOID for e in audits)


def test_a_convict_shown_late_pays_once_and_its_open_debts_end() -> None:
    """The bytes come out only when the worker owes its opening: the debt and the waiting audits end with it."""

    class Later(Verifier):
        """Reports only what is owed for already."""

        def decide(self, state, now, twice=()):  # type: ignore[no-untyped-def]
            """Hold reports back until the audits wait for the suspended author."""
            wanted = super().decide(state, now, twice)
            acts = [act for act in wanted if not isinstance(getattr(act, "body", None), Spoiled)]
            owing = {a for a in state.debtors if OpeningDebt(Round(1)) in state.members[a].owes}
            shown = [body for body in self.results.done.values() if isinstance(body, Spoiled)]
            is_judged = owing and state.sessions[1].watch is Watch.DONE
            return acts + [Say(body) for body in shown if is_judged and body.worker in owing]

    class Blind(Worker):
        """Sees no fault in any bytes."""

        def compute(self, action, state, blobs, now):  # type: ignore[no-untyped-def]
            """Hold what is shown to be spoiled for merely not held."""
            result = super().compute(action, state, blobs, now)
            return False if isinstance(result, Spoiled) else result

    cheat = Worker("cheat", Spoil(WAYS["garbage"][0]), Mute(Opening, when=lambda body: body.round == 1))
    late = [Later("v0"), Later("v1")]
    world = World(
        minimal(audit_rate=MILLION, rounds=4, min_workers=3, min_verifiers=2),
        [cheat, Blind("w0"), Blind("w1"), *late],
        random.Random(3),
        check=Invariants(late),
    )
    world.blobs.throw(GARBAGE)
    world.run()
    (slashed,) = world.seen(Slashed)
    assert slashed.reason.cause is Cause.SPOILED_BYTES
    ended = [e for e in world.seen(AuditEnded) if (e.work, e.worker) == (1, cheat.address)]
    assert {e.outcome for e in ended} == {Audit.WAITING, Audit.VOID}
    assert not any(member.owes for member in world.state.members.values())


bundles = st.lists(tensors(), min_size=2, max_size=4).map(lambda parts: Bundle(tuple(parts)))


@given(bundles)
def test_no_honest_commitment_is_spoiled_by_any_bytes(bundle: Bundle) -> None:
    """Whatever a program makes: its own encoding has the size, the address, the digest and the norm that are signed."""
    outputs = [Port("", t.dtype, t.shape) for t in bundle.tensors]
    data = codec.encode(bundle)
    norm = int.from_bytes(bundle.tensors[-2].data, "little")
    ref = BundleRef(digest_of(bundle), address_of_bytes(data))
    commit = Commit(Round(0), ZERO, ZERO, ref, Count(norm), ZERO)
    assert encoded_size(outputs) == len(data)
    assert show_spoiled(Address(bytes(20)), commit, outputs, len(data), chunks_root(data), data) is None
    for other in (b"", data[:-1], data + b"\0", bytes(len(data))):
        for told in (other, b""):
            shown = Spoiled(Round(0), Address(bytes(20)), Count(len(other)), chunks_root(other), told)
            if other != data:
                with pytest.raises(BadEvidence):
                    fault(commit, outputs, shown)
    with pytest.raises(BadEvidence):  # the right address, and other bytes with it
        fault(
            commit,
            outputs,
            Spoiled(
                Round(0),
                Address(bytes(20)),
                Count(len(data)),
                chunks_root(data),
                bytes([data[0] ^ 1]) + data[1:],
            ),
        )


@given(bundles, st.integers(0, 10**6), st.integers(1, 255))
def test_any_changed_byte_under_a_signed_address_convicts(bundle: Bundle, place: int, flip: int) -> None:
    outputs = [Port("", t.dtype, t.shape) for t in bundle.tensors]
    data = bytearray(codec.encode(bundle))
    data[place % len(data)] ^= flip
    ref = BundleRef(digest_of(bundle), address_of_bytes(bytes(data)))
    norm = int.from_bytes(bundle.tensors[-2].data, "little")
    commit = Commit(Round(0), ZERO, ZERO, ref, Count(norm), ZERO)
    shown = show_spoiled(
        Address(bytes(20)), commit, outputs, len(data), chunks_root(bytes(data)), bytes(data)
    )
    try:
        same = digest_of(codec.decode(Bundle, bytes(data))) == ref.digest  # -0.0 counts as +0.0
    except Malformed:
        same = False
    assert (shown is None) == same
    if shown is not None:
        assert fault(commit, outputs, shown)


def test_an_honest_peer_fetches_checks_and_reports_once() -> None:
    """Many see it; the law takes the first report and no second."""
    cheat = Worker("cheat", Spoil(WAYS["garbage"][0]))
    world = world_of(cheat)
    reports = [
        line
        for line in world.ledger.log
        if line.kind == "statement" and isinstance(open_statement(line.data).body, Spoiled)
    ]
    assert len(reports) == 1
    shown = [
        actor
        for actor in world.actors[1:]
        if isinstance(actor.results.done.get(FetchContribution(Round(1), cheat.address)), Spoiled)
    ]
    assert len(shown) >= 2
    assert outputs_of(PROGRAMS[world.state.manifest.programs.epilogue.digest])
