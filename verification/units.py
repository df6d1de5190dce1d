"""The protocol's units as types. Money is `int`; no float exists in the law. (SPEC.md 1.1)"""

from typing import NewType

Digest = NewType("Digest", bytes)
"""32-byte hash."""

Address = NewType("Address", bytes)
"""20-byte account: the last 20 bytes of keccak-256 of the public key, as on Ethereum."""

Signature = NewType("Signature", bytes)
"""65-byte recoverable secp256k1 signature (r, s, recovery id)."""

Amount = NewType("Amount", int)
"""Money in the ledger's smallest unit, 0 to 2**62."""

Count = NewType("Count", int)
"""A non-negative number: a length, an index, a round, an inner step; 0 to 2**53."""

Round = NewType("Round", int)
"""Number of a round, from 0; encoded as Count."""

Millis = NewType("Millis", int)
"""Ledger time or a duration in milliseconds, 0 to 2**53."""

PPM = NewType("PPM", int)
"""A fraction in millionths, 0 to 1,000,000."""

MILLION = 1_000_000
MAX_AMOUNT = 1 << 62
NOTHING = Amount(0)
