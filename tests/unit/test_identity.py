import os
import stat

import pytest
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID

from p2p.identity import Identity, address_of_peer, create, load
from verification.errors import Malformed, UserError
from verification.signing import address_of


def test_a_created_key_is_private_and_loads_as_itself(tmp_path):
    path = tmp_path / "keys" / "peer.key"
    made = create(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load(path).address == made.address == address_of(made.secret)
    assert load(path).peer_id == made.peer_id
    assert os.listdir(path.parent) == ["peer.key"]


def test_creating_never_replaces_a_key(tmp_path):
    path = tmp_path / "peer.key"
    made = create(path)
    with pytest.raises(UserError, match="already there; choose another"):
        create(path)
    assert load(path).secret == made.secret


def test_creating_where_nobody_may_write_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose a folder"):
        create(tmp_path / "file" / "peer.key")


def test_two_keys_differ(tmp_path):
    assert create(tmp_path / "a").secret != create(tmp_path / "b").secret


def test_a_missing_key_names_the_mend(tmp_path):
    with pytest.raises(UserError, match="no key file; create one"):
        load(tmp_path / "none")


def test_a_key_that_others_can_read_names_chmod(tmp_path):
    path = tmp_path / "peer.key"
    create(path)
    path.chmod(0o640)
    with pytest.raises(UserError, match="chmod 600"):
        load(path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "proofswarm-key-2 " + "11" * 32,
        "proofswarm-key-1 " + "11" * 31,
        "proofswarm-key-1 " + "GG" * 32,
        "proofswarm-key-1 " + "11" * 32 + "\nmore",
        "\xff\xfe",
        "-----BEGIN EC PRIVATE KEY-----",
        "proofswarm-key-1 " + "00" * 32,
        "proofswarm-key-1 " + "ff" * 32,
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, text):
    path = tmp_path / "peer.key"
    path.write_text(text, encoding="latin-1")
    path.chmod(0o600)
    with pytest.raises(UserError, match="key") as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert "recreate" in str(caught.value)


def test_a_folder_is_no_key(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        load(tmp_path)


def test_derived_secrets_differ_by_purpose_and_key_and_return():
    one, other = Identity(b"\1" * 32), Identity(b"\2" * 32)
    assert one.derive("a") == Identity(b"\1" * 32).derive("a")
    assert len({one.derive("a"), one.derive("b"), other.derive("a"), one.salt_secret}) == 4
    assert one.secret not in {one.derive("a"), one.salt_secret}


def test_a_peer_id_tells_its_account():
    identity = Identity(b"\7" * 32)
    assert address_of_peer(identity.peer_id) == identity.address


def test_a_peer_id_of_another_key_type_is_refused():
    with pytest.raises(Malformed):
        address_of_peer(ID.from_pubkey(create_new_key_pair().public_key))


def test_a_peer_id_off_the_curve_is_refused():
    data = Identity(b"\7" * 32).peer_id.to_bytes()
    with pytest.raises(Malformed):
        address_of_peer(ID(data[:6] + b"\x02" + b"\xff" * 32))


@pytest.mark.parametrize("secret", [b"", b"\1" * 31, b"\1" * 33, bytes(32), b"\xff" * 32])
def test_a_secret_outside_the_group_is_refused(secret):
    with pytest.raises(ValueError):
        Identity(secret)


def test_an_identity_does_not_print_its_secret():
    assert (b"\1" * 32).hex() not in repr(Identity(b"\1" * 32))
