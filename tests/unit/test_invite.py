"""Invitations: an account goes into one ticket, whoever asks at once, and a ticket says where the ledger is served."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from p2p.identity import Identity, load
from p2p.ticket import Ticket
from trainer.commands import invite as invite_module
from trainer.commands.invite import NEAR, SECRET, hand_out, invite, unused_keys
from trainer.commands.report import read_ledger
from trainer.folder import RunFolder, Taken
from trainer.peer.journal import journal_of
from trainer.runs.create import Created
from trainer.runs.ledgers import genesis_of
from trainer.runs.serving import endpoint_of, serving, tell_endpoint
from verification.errors import UserError
from verification.state import Stage, State
from verification.units import Address

HOST = Identity(bytes(31) + b"\1")
FAR = f"/ip4/192.0.2.1/tcp/4001/p2p/{HOST.peer_id}"
NEAR_BY = f"/ip4/127.0.0.1/tcp/4001/p2p/{HOST.peer_id}"


@pytest.fixture
def run(tiny_run: Created, tmp_path: Path) -> RunFolder:
    """A run of the test's own, with three accounts."""
    return RunFolder(Path(shutil.copytree(tiny_run.folder.path, tmp_path / "run")))


@pytest.fixture
def state(run: RunFolder) -> State:
    """Its state."""
    ledger = read_ledger(run)
    ledger.close()
    return ledger.state


def told(
    run: RunFolder, count: int, *addresses: str, with_account: bool = True
) -> tuple[list[Ticket], list[str]]:
    """Return tickets, and what a person is warned of."""
    warnings: list[str] = []
    texts = invite(run, count, addresses, with_account, warnings.append)
    return [Ticket.parse(text) for text in texts], warnings


def test_a_ticket_brings_run_host_and_an_account_of_its_own(run: RunFolder) -> None:
    keys = {load(path).secret: path for path in run.keys.glob("peer-*.key")}
    (first,), warnings = told(run, 1, FAR)
    assert warnings == [SECRET]
    assert (first.run, first.host.address, first.endpoint) == (genesis_of(run).run, HOST.address, FAR)
    (second, third), warnings = told(run, 2, NEAR_BY)
    assert warnings == [SECRET, NEAR]
    assert {first.secret, second.secret, third.secret} == keys.keys()
    for secret, path in keys.items():
        handed = run.handed_out / path.name
        assert not path.exists() and load(handed).secret == secret
        assert handed.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UserError, match="has 0 accounts that nobody uses, 1 are asked for"):
        told(run, 1, FAR)
    (bare,), warnings = told(run, 1, FAR, with_account=False)
    assert bare.identity is None and warnings == []


def test_too_few_accounts_hand_out_none(run: RunFolder, state: State) -> None:
    before = sorted(run.keys.iterdir())
    with pytest.raises(UserError, match="3 accounts that nobody uses, 4 are asked for"):
        hand_out(run, state, 4)
    assert sorted(run.keys.iterdir()) == before


def test_two_at_once_get_no_account_twice(
    run: RunFolder, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sees all three accounts, and is overtaken before it moves the first key."""
    others: list[Identity] = []
    unused = unused_keys(run, state)

    def overtaken(folder: RunFolder, state: State) -> list[Path]:
        monkeypatch.undo()
        others.extend(hand_out(folder, state, 2))
        return unused

    monkeypatch.setattr(invite_module, "unused_keys", overtaken)
    with pytest.raises(UserError, match="another invitation has just taken the accounts"):
        hand_out(run, state, 2)
    assert len(unused_keys(run, state)) == 1
    (last,) = hand_out(run, state, 1)
    assert len({one.address for one in [*others, last]}) == 3


def test_threads_that_hand_out_at_once_share_the_accounts(run: RunFolder, state: State) -> None:
    def one(_: int) -> Address | None:
        try:
            return hand_out(run, state, 1)[0].address
        except UserError:
            return None

    with ThreadPoolExecutor(8) as pool:
        handed = [address for address in pool.map(one, range(8)) if address is not None]
    assert len(handed) == len(set(handed)) == 3 - len(unused_keys(run, state))


def test_an_account_in_use_is_nobodys_ticket(run: RunFolder, state: State) -> None:
    names = [path.stem for path in unused_keys(run, state)]
    assert names == ["peer-0", "peer-1", "peer-2"]  # neither the submitter's nor the host's
    spoken = run.keys / "peer-0.key"
    journal_of(spoken, load(spoken).address).touch()
    poor = load(run.keys / "peer-1.key").address
    del state.balances[poor]
    assert [path.stem for path in unused_keys(run, state)] == ["peer-2"]


def test_a_ticket_names_where_the_ledger_is_served_now(run: RunFolder) -> None:
    with pytest.raises(UserError, match=r"nobody serves .*: start 'proofswarm run serve"):
        told(run, 1)
    with serving(run, HOST.address):
        with pytest.raises(UserError, match="nobody serves"):
            told(run, 1)
        tell_endpoint(run, FAR)
        assert endpoint_of(run) == FAR
        (ticket,), _ = told(run, 1)
        assert ticket.endpoint == FAR
        with pytest.raises(Taken, match="is served by another process already"), serving(run, HOST.address):
            pass
    assert not run.serving.exists()
    run.serving.write_text(FAR)  # as a kill leaves it
    assert endpoint_of(run) is None


@pytest.mark.parametrize("address", ["here", "/ip4/192.0.2.1/tcp/4001"])
def test_an_address_without_a_key_is_refused(run: RunFolder, address: str) -> None:
    with pytest.raises(UserError, match=r"--address: .* the host's key"):
        told(run, 1, address)


def test_nobody_is_invited_to_a_run_that_has_ended(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = read_ledger(run)
    ledger.state.stage = Stage.DRAINING
    monkeypatch.setattr(invite_module, "read_ledger", lambda folder: ledger)
    with pytest.raises(UserError, match="takes no more members"):
        told(run, 1, FAR)
    assert not run.handed_out.exists()
