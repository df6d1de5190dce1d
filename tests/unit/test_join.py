"""What a ticket makes of a peer: the same folder and account each time, from a line, a file or standard input."""

import io
import sys
from pathlib import Path

import pytest

from p2p.identity import Identity, create, load
from p2p.listening import AS_LISTENED
from p2p.ticket import Ticket
from p2p.transport import ANY_LOCAL_PORT
from trainer.commands.join import Settings, config_of, read_ticket
from trainer.peer.config import Account
from trainer.peer.following import progress
from verification.digest import tagged
from verification.errors import UserError

HOST = Identity(bytes(31) + b"\1")
TICKET = Ticket(tagged("run"), f"/ip4/192.0.2.1/tcp/4001/p2p/{HOST.peer_id}", bytes(31) + b"\2")
BARE = Ticket(TICKET.run, TICKET.endpoint)
SETTINGS = Settings("verifier", ANY_LOCAL_PORT, AS_LISTENED, 2, None, 1.5, "cpu", 500, None, False)


def test_a_ticket_is_read_from_a_line_a_file_or_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ticket"
    file.write_text(f"{TICKET.text()}\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{TICKET.text()}\n"))
    assert read_ticket(TICKET.text()) == read_ticket(str(file)) == read_ticket("-") == TICKET
    file.write_bytes(b"\xff\n" * 9000)
    for text in (str(file), str(tmp_path / "none"), "", "x" * 5000):
        with pytest.raises(UserError, match="that is no ticket"):
            read_ticket(text)


def test_a_ticket_leads_to_one_folder_and_one_account() -> None:
    told: list[str] = []
    config = config_of(SETTINGS, TICKET, None, None, told.append)
    again = config_of(SETTINGS, TICKET, None, None, told.append)
    assert (config.folder, config.account.key) == (again.folder, again.account.key)
    assert config.account.address == again.account.address
    assert config.folder.path == Path("runs", TICKET.run.hex()[:12])
    assert config.account.address == Identity(TICKET.secret).address
    assert config.account.key == config.folder.keys / f"peer-{config.account.address.hex()[:8]}.key"
    assert (config.host, config.run) == (TICKET.host, TICKET.run)
    assert (config.joining.role, config.threads, config.options.memory) == ("verifier", 2, 3 << 29)
    assert (config.grants.up, config.grants.down) == (500_000, None)


def test_an_account_of_ones_own_takes_the_tickets_place(tmp_path: Path) -> None:
    own = create(tmp_path / "own.key")
    for ticket in (TICKET, BARE):
        config = config_of(SETTINGS, ticket, tmp_path, tmp_path / "own.key", print)
        assert (config.folder.path, config.account.address) == (tmp_path, own.address)
    with pytest.raises(UserError, match=r"the ticket brings no account: .* --key"):
        config_of(SETTINGS, BARE, tmp_path, None, print)


def test_a_key_is_kept_once_and_never_over_another(tmp_path: Path) -> None:
    account = Account(tmp_path / "keys" / "a.key", Identity(TICKET.secret))
    account.keep()
    account.keep()
    assert load(account.key).secret == TICKET.secret
    assert account.key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(UserError, match="is the key of another account"):
        Account(account.key, HOST).keep()


def test_a_fetch_tells_how_far_it_is_and_when_nothing_comes() -> None:
    assert (
        progress(5 << 20, 10 << 20, 1 << 20, 3)
        == "fetches from 3 peers: 5.0 of 10.0 MiB, 1.00 MiB/s, 5 s left"
    )
    assert progress(5 << 20, 10 << 20, 0.0, 1).endswith("0.00 MiB/s, nothing comes: waits")
