"""Crews of real processes: members of several owners train what none of them holds, and who cheats among them pays."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from p2p.identity import load
from tests.patience import PATIENCE
from tests.swarm import PeerProcess, final_digests, final_state, swarm
from tests.tiny import make_run
from trainer.commands.recompute import recompute
from trainer.commands.report import read_state, write_report
from trainer.folder import RunFolder
from trainer.programs.options import NODE_BY_NODE
from verification.evidence.retrial import verify
from verification.forming import pair
from verification.state import Stage, Standing, State
from verification.statements import VERIFIER, WORKER
from verification.units import Address

pytestmark = [pytest.mark.integration, pytest.mark.slow]

WINDOWS = {"windows__commit": 45, "windows__attest": 30, "windows__seal": 30}
FIRST, SECOND = ("--shard", "1"), ("--shard", "2")


def made(folder: Path, workers: int, verifiers: int = 1, **changes: Any) -> RunFolder:
    """Make a run for crews of two, of so many peers in all; `changes` are job keys with two underscores for the dot."""
    keys = {name.replace("__", "."): value for name, value in changes.items()}
    sizes = {"swarm.workers": 2, "swarm.min_workers": 2, "swarm.verifiers": verifiers}
    sizes |= {"swarm.min_verifiers": verifiers, "accounts.peers": workers + verifiers, "swarm.crews": [2]}
    small = {"training.leaf_every": None, "training.max_steps": 2, "data.length": 8, "training.rounds": 3}
    return make_run(folder, {**sizes, **small, **keys}).folder


def account(folder: RunFolder, number: int) -> Address:
    """The account of a peer."""
    return load(folder.keys / f"peer-{number}.key").address


def waited(peers: list[PeerProcess]) -> list[int]:
    """Their exit statuses."""
    return [peer.wait(2 * PATIENCE) for peer in peers]


def crews_in(state: State) -> list[tuple[int, bool]]:
    """The rounds with a crew of two, and whether it counted."""
    return [
        (int(worked.number), worked.was_included(lead))
        for worked in state.rounds
        for lead in sorted({crew[0] for crew in worked.crews.values() if len(crew) == 2})
    ]


def test_a_crew_and_a_whole_worker_end_on_one_state(tmp_path: Path) -> None:
    folder = made(tmp_path, 3)
    options = {0: FIRST, 1: SECOND}
    with swarm(folder, [WORKER] * 3 + [VERIFIER], options, workers_first=True) as peers:
        assert waited(peers) == [0] * 4
        assert len(final_digests(peers)) == 1
        for member in peers[:2]:
            computed = [event for event in member.events("computed") if event["own"]]
            assert all(event["sent"] and event["received"] for event in computed)
            assert len({event["shard"] for event in computed}) == 1
    state = final_state(folder)
    assert (state.stage, len(state.rounds), len(state.disputes)) == (Stage.ENDED, 3, 0)
    counted = crews_in(state)
    assert (2, True) in counted and all(is_included for _, is_included in counted)
    holds, told = recompute(folder, NODE_BY_NODE, {})
    assert holds, told
    assert not any(member.slashed for member in state.members.values())
    assert all(member.standing is Standing.ACTIVE for member in state.members.values())


def assert_convicted(folder: RunFolder, state: State, cheat: int, mates: list[int]) -> None:
    """One member has paid, by a file that anyone can check; the others have not."""
    convict = account(folder, cheat)
    assert {each for each, member in state.members.items() if member.slashed} == {convict}
    assert state.members[convict].standing is Standing.EXCLUDED
    files = sorted(folder.evidence.glob("*.evidence"))
    assert {verify(path.read_bytes()).accused for path in files} == {convict}
    assert all(state.members[account(folder, mate)].rewards for mate in mates)


@pytest.mark.parametrize(
    ("cheat", "shard"),
    [("false-gradients", SECOND), ("false-activations", FIRST), ("frame-neighbour", SECOND)],
)
def test_who_deceives_its_neighbour_pays_alone(tmp_path: Path, cheat: str, shard: tuple[str, str]) -> None:
    """In one of two crews, which both work in every round."""
    folder = made(tmp_path, 4, training__rounds=6, swarm__min_workers=1, **WINDOWS)
    mate = FIRST if shard == SECOND else SECOND
    options = {0: mate, 1: (*shard, "--cheat", cheat, "--cheat-from", "1"), 2: shard, 3: mate}
    with swarm(folder, [WORKER] * 4 + [VERIFIER], options, workers_first=True) as peers:
        assert waited(peers) == [0] * 5
        assert len(final_digests([peers[0], *peers[2:]])) == 1
    state = final_state(folder)
    write_report(folder)
    assert any(account(folder, 1) in worked.commits for worked in state.rounds[1:])
    assert_convicted(folder, state, 1, [])
    if cheat != "frame-neighbour":
        assert {dispute.accused for dispute in state.disputes} == {account(folder, 1)}
    assert any(is_included for number, is_included in crews_in(state) if number > 1)


def test_where_a_member_is_killed_a_spare_goes_on(tmp_path: Path) -> None:
    """Its neighbour says soon that it is gone; back again it opens what it had committed to, on what it took then."""
    folder = made(tmp_path, 3, training__rounds=16, swarm__workers=1, swarm__min_workers=1, **WINDOWS)
    options = {0: FIRST, 1: SECOND, 2: SECOND}
    with swarm(folder, [WORKER] * 3 + [VERIFIER], options, workers_first=True) as peers:
        peers[0].wait_line(lambda line: line.startswith("state round=1"))
        has_first = account(folder, 1) in crew_at(folder, account(folder, 0))
        killed, spare = (peers[1], peers[2]) if has_first else (peers[2], peers[1])
        killed.kill()
        peers[0].wait_line(lambda line: line.startswith("stuck ") and killed.account in line)
        seen = len(spare.lines())
        spare.wait_line(lambda line: line.startswith("computed ") and "own=True" in line, seen)
        killed.restart()
        assert waited(peers) == [0] * 4
        assert len(final_digests(peers)) == 1
    state = final_state(folder)
    assert (state.stage, len(state.rounds), len(state.disputes)) == (Stage.ENDED, 16, 0)
    assert not any(member.slashed for member in state.members.values())
    assert pair(account(folder, 0), account(folder, 1 if has_first else 2)) in state.parted
    begun = [worked.opened_at for worked in state.rounds]
    # A window, where it was killed between its receipt and its commitment, and what is waited for it elsewhere.
    assert max(after - before for before, after in pairwise(begun)) < 75_000


def crew_at(folder: RunFolder, member: Address) -> tuple[Address, ...]:
    """The crew in which a member works now."""
    return read_state(folder).current.crews[member]
