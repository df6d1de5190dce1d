"""secp256k1 signatures and Ethereum accounts: pure functions of key bytes. Key files belong to `p2p.identity`.

Signatures are deterministic (RFC 6979) and recoverable, so a statement carries no public key. (SPEC.md 1.5)
"""

import functools

import coincurve
from Crypto.Hash import keccak

from verification.digest import tagged
from verification.errors import BadSignature
from verification.units import Address, Digest, Signature


def address_of(secret: bytes) -> Address:
    """Return the account of a 32-byte secret key; raises ValueError for a key outside the group's order."""
    return _address(coincurve.PrivateKey(secret).public_key)


def sign(secret: bytes, purpose: str, message: bytes) -> Signature:
    """Return the signature of `message` under a domain-separated hash."""
    return Signature(_key(secret).sign_recoverable(tagged("sign/" + purpose, message), hasher=None))


@functools.lru_cache(maxsize=16)  # a point of the curve is computed for it, which takes longer than to sign
def _key(secret: bytes) -> coincurve.PrivateKey:
    return coincurve.PrivateKey(secret)


def recover(signature: Signature, purpose: str, message: bytes) -> Address:
    """Return the account that signed; raises BadSignature for bytes that are no low-s signature."""
    digest = tagged("sign/" + purpose, message)
    if int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        raise BadSignature("high-s signature")
    try:
        return _address(coincurve.PublicKey.from_signature_and_message(signature, digest, hasher=None))
    except ValueError as error:
        raise BadSignature("not a signature") from error


def checksum(address: Address) -> str:
    """Return the account as people write it: 0x and 40 hex digits with the EIP-55 checksum."""
    digits = address.hex()
    mask = _keccak(digits.encode()).hex()
    return "0x" + "".join(d.upper() if int(m, 16) >= 8 else d for d, m in zip(digits, mask, strict=False))


def _address(public: coincurve.PublicKey) -> Address:
    return Address(_keccak(public.format(compressed=False)[1:])[-20:])


def _keccak(data: bytes) -> Digest:
    return Digest(keccak.new(digest_bits=256, data=data).digest())


_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
