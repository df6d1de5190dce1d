"""One secp256k1 key per peer: its libp2p peer id, its Ethereum account and the seed of its other secrets."""

import os
import re
import secrets
import stat
from pathlib import Path

import coincurve
from Crypto.Hash import keccak
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.peer.id import ID

from p2p.traffic import OTHERS
from verification.digest import keyed
from verification.errors import Malformed, UserError
from verification.signing import address_of
from verification.units import Address, Digest

_HEADING = "proofswarm-key-1"
_LINE = re.compile(_HEADING + r" ([0-9a-f]{64})\n?")
_MAX_FILE = 4096
_SECP256K1_PEER_ID = bytes.fromhex("0025 0802 1221")
"""Identity multihash of 37 bytes, then the protobuf of a compressed secp256k1 key (libp2p peer-ids specification)."""


class Identity:
    """A peer's key; every public attribute is a pure function of its 32 secret bytes."""

    def __init__(self, secret: bytes) -> None:
        """Raises ValueError unless `secret` is 32 bytes inside the group's order."""
        if len(secret) != 32:
            raise ValueError("a secret key has 32 bytes")
        self.secret = secret
        self.address: Address = address_of(secret)
        self.libp2p_keys: KeyPair = create_new_key_pair(secret)
        self.peer_id: ID = ID.from_pubkey(self.libp2p_keys.public_key)

    def __repr__(self) -> str:
        return f"Identity({self.address.hex()})"

    def derive(self, purpose: str) -> Digest:
        """Return 32 secret bytes for one purpose, the same after every restart (HMAC-SHA-256 under the key)."""
        return keyed(self.secret, "identity/" + purpose)

    @property
    def salt_secret(self) -> Digest:
        """Secret from which leaf salts and hash chains are made."""
        return self.derive("salt")


def address_of_peer(peer_id: ID) -> Address:
    """Return the account of a libp2p peer id, which holds the public key; raises Malformed for other key types."""
    data = peer_id.to_bytes()
    if len(data) != 39 or not data.startswith(_SECP256K1_PEER_ID):
        raise Malformed("peer id does not hold a secp256k1 key")
    try:
        public = coincurve.PublicKey(data[len(_SECP256K1_PEER_ID) :])
    except ValueError as error:
        raise Malformed("peer id holds no point of the curve") from error
    point = public.format(compressed=False)[1:]
    return Address(keccak.new(digest_bits=256, data=point).digest()[-20:])


def account_of(peer: ID) -> Address:
    """Return a peer's account, `OTHERS` for one whose key has none."""
    try:
        return address_of_peer(peer)
    except Malformed:
        return OTHERS


def create(path: Path, identity: Identity | None = None) -> Identity:
    """Write a new key file, mode 0600, and return its identity; raises UserError if the file exists or cannot be made.

    Unless an identity is given, the key comes from the operating system's generator. The file appears complete or not
    at all.
    """
    identity = identity or generate()
    draft = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        if path.exists():
            raise FileExistsError
        _make_folder(path.parent)
        try:
            _write_private(draft, f"{_HEADING} {identity.secret.hex()}\n")
            os.link(draft, path)  # unlike rename, link never replaces a file
        finally:
            draft.unlink(missing_ok=True)
        _sync_folder(path.parent)
    except FileExistsError as error:
        raise UserError(
            f"{path}: a file is already there; choose another path or move the old key away"
        ) from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot write a key file: {error.strerror}; choose a folder you can write to"
        ) from error
    return identity


def load(path: Path) -> Identity:
    """Return the identity in a key file; raises UserError when it is missing, open to others or wrong."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_MAX_FILE)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no key file; create one, or correct the path") from error
    except OSError as error:
        raise UserError(
            f"{path}: cannot read the key file: {error.strerror}; correct its owner or the path"
        ) from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UserError(f"{path}: other users can reach this key file; run: chmod 600 {path}")
    found = _LINE.fullmatch(data.decode("ascii", errors="replace"))
    if found is None:
        raise UserError(
            f"{path}: not a key file (expected one line '{_HEADING} <64 hex digits>'); restore or recreate it"
        )
    try:
        return Identity(bytes.fromhex(found[1]))
    except ValueError as error:
        raise UserError(
            f"{path}: the number in this key file is no secp256k1 key; restore or recreate it"
        ) from error


def generate() -> Identity:
    """Return a new identity, from the operating system's generator, that is nowhere kept."""
    while True:
        try:
            return Identity(secrets.token_bytes(32))
        except ValueError:  # outside the group's order: one draw in 2**128
            continue


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(error.errno, "not a folder") from error


def _write_private(path: Path, text: str) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
