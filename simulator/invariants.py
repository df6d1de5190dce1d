"""What holds after every entry of every run, whoever plays. Each check says why it must."""

from collections import Counter
from collections.abc import Iterable

from simulator.cast import Actor
from simulator.world import World
from verification import law
from verification.effects import DisputeEnded, DisputeMoved, Paid, Slashed
from verification.manifest import BundleRef
from verification.state import Ruling, Stage, State
from verification.units import Address

MOVES = 80
"""Most moves of one dispute: far above what lists of 64 need for any round that a test plays."""


class Invariants:
    """Checks a world's new effects and its state; pass it as the world's `check`. Money is checked by the ledger."""

    def __init__(self, honest: Iterable[Actor]) -> None:
        """`honest` follow the protocol and answer within every window, or within `silence` after it."""
        self._honest: set[Address] = {actor.address for actor in honest}
        self._seen = 0
        self._moves: dict[int, int] = {}
        self._accused: set[Address] = set()
        self.checks = 0

    def __call__(self, world: World) -> None:
        """Look at what is new; raises AssertionError."""
        self.checks += 1
        for line in world.ledger.log[self._seen :]:
            for effect in line.effects:
                if isinstance(effect, Slashed):
                    # A rule that takes from an honest peer makes taking part a gamble.
                    assert effect.address not in self._honest, f"an honest peer pays: {effect.reason}"
                elif isinstance(effect, DisputeEnded):
                    self._check_ruling(effect)
                elif isinstance(effect, DisputeMoved):
                    self._moves[effect.number] = self._moves.get(effect.number, 0) + 1
                    # Money is locked while a dispute runs: it must be short whatever the parties do.
                    assert self._moves[effect.number] <= MOVES, "a dispute does not come to an end"
                elif isinstance(effect, Paid) and effect.what == "reward":
                    self._check_reward(world, effect)
        self._seen = len(world.ledger.log)
        self._accused = {dispute.accused for dispute in world.state.open_disputes()}
        self._check_state(world)

    def _check_ruling(self, ended: DisputeEnded) -> None:
        """One honest party is enough: truth needs no majority."""
        if ended.accused in self._honest:
            assert ended.ruling is not Ruling.GUILTY, f"an honest peer is convicted: {ended.cause}"
        if ended.challenger in self._honest:
            assert ended.ruling is not Ruling.INNOCENT, f"an honest challenger loses: {ended.cause}"

    def _check_reward(self, world: World, paid: Paid) -> None:
        """Nothing is final while it is disputed, or the slash would find nothing left."""
        still = {dispute.accused for dispute in world.state.open_disputes()}
        assert paid.address not in self._accused & still

    def _check_state(self, world: World) -> None:
        state = world.state
        deadline = law.next_deadline(state)
        # A deadline that has come and changes nothing would be a run that hangs.
        assert deadline is None or deadline > state.now
        assert state.deposit >= 0
        assert all(member.stake >= 0 for member in state.members.values())
        self._check_indexes(state)
        if state.stage is Stage.ENDED:
            assert not state.open_disputes()
            assert not any(member.escrow or member.owes for member in state.members.values())

    def _check_indexes(self, state: State) -> None:
        """What is kept only to be found fast must be what it stands for, or a rule overlooks somebody."""
        assert state.running == {d.number: d for d in state.disputes if d.ruling is None}
        assert state.debtors == {address for address, member in state.members.items() if member.owes}
        assert state.joined == Counter(member.role for member in state.members.values())
        for worked in state.rounds[-2:]:
            assert worked.weight == sum(worked.members.values())
            assert worked.attested == sum(worked.members[address] for address in worked.attests)
            holding = Counter[Address]()
            for address, held in worked.attests.items():
                holding.update(dict.fromkeys(held, worked.members[address]))
            assert worked.held == holding
            backing = Counter[BundleRef]()
            for address, ref in worked.seals.items():
                backing[ref] += worked.members[address]
            assert worked.backing == backing
