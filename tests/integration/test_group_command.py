"""What a person may say of a group wrongly: one line that names the mend."""

import socket
from pathlib import Path

import pytest

from trainer.commands.group import join_group, place_of
from trainer.groups.ticket import GroupTicket
from trainer.programs.options import NODE_BY_NODE
from verification.errors import Unavailable, UserError
from verification.units import Count

pytestmark = pytest.mark.integration
TICKET = GroupTicket("127.0.0.1", Count(1), Count(2), bytes(32))


def test_an_address_and_a_port_are_a_place() -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        with pytest.raises(
            UserError, match=r"cannot listen at .*; give an address of this machine and a free port"
        ):
            place_of(f"127.0.0.1:{port}")
    assert place_of(f"127.0.0.1:{port}") == ("127.0.0.1", port)
    assert place_of("127.0.0.1") == ("127.0.0.1", 0)


@pytest.mark.parametrize(
    ("listen", "mend"),
    [
        ("", "write --group-listen"),
        ("a-name", "write --group-listen"),
        ("::1", "write --group-listen"),
        ("127.0.0.1:x", "write --group-listen"),
        ("127.0.0.1:-1", "a free port"),
        ("127.0.0.1:65536", "a free port"),
        ("192.0.2.1", "give an address of this machine"),
        ("0.0.0.0", "the address by which others reach this machine"),
    ],
)
def test_what_is_no_place_is_refused(listen: str, mend: str) -> None:
    with pytest.raises(UserError, match=mend):
        place_of(listen)


def test_a_ticket_is_text_or_a_file(tmp_path: Path) -> None:
    """Both lead to the same leader, whom nobody is at the moment."""
    file = tmp_path / "group.ticket"
    file.write_text(TICKET.text() + "\n", encoding="ascii")
    for given in (TICKET.text(), str(file)):
        with pytest.raises(Unavailable, match=r"nobody leads a group at 127\.0\.0\.1 port 1"):
            join_group(given, 1, NODE_BY_NODE, print)
    for given in (
        str(tmp_path),
        "proofswarm1t" + "a" * 400,
    ):  # longer than a file's name may be, as runs' tickets are
        with pytest.raises(UserError, match="begins with group1t"):
            join_group(given, 1, NODE_BY_NODE, print)
