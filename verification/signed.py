"""A statement as bytes: signed over (chain, run, round, slot, head) and its body, made and opened.

Two statements of one author contradict each other only if all five are equal and the bodies differ. (SPEC.md 3.2)
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from verification import codec, signing
from verification.digest import tagged
from verification.errors import Malformed
from verification.statements import KINDS, MAX_STATEMENT, Body
from verification.units import Address, Digest, Round, Signature

B_co = TypeVar("B_co", bound=Body, covariant=True)


@dataclass(frozen=True)
class Statement:
    """The signed part: place (chain, run, round, slot, head), kind and encoded body."""

    chain: str
    run: Digest
    round: Round
    slot: str
    head: Digest
    kind: str
    body: bytes


@dataclass(frozen=True)
class Signed:
    """An encoded Statement and its author's signature over those very bytes."""

    statement: bytes
    signature: Signature


@dataclass(frozen=True)
class Said(Generic[B_co]):
    """A statement that has been opened: `sender` signed it, and its body stands at its own place.

    `data` are the signed bytes. Whoever holds one need check nothing about it but what the ledger's state says.
    """

    sender: Address
    statement: Statement
    body: B_co
    data: bytes

    @cached_property
    def digest(self) -> Digest:
        """What the ledger keeps of the statement."""
        return tagged("said", self.data)

    @property
    def run(self) -> tuple[str, Digest]:
        """The chain and the run that it is said for."""
        return self.statement.chain, self.statement.run

    @property
    def place(self) -> tuple[Address, Round, str, Digest]:
        """Whose word it is, and where: a sender says one thing per place. (SPEC.md 3.2)"""
        return self.sender, self.statement.round, self.statement.slot, self.statement.head


def make_statement(chain: str, run: Digest, head: Digest, body: Body) -> Statement:
    """Return the statement that says `body` at its own place."""
    return Statement(chain, run, body.round, body.slot, head, type(body).__name__, codec.encode(body))


def sign_statement(secret: bytes, statement: Statement) -> bytes:
    """Return the encoded, signed statement."""
    encoded = codec.encode(statement)
    return codec.encode(Signed(encoded, signing.sign(secret, "statement", encoded)))


def open_statement(data: bytes) -> Said[Body]:
    """Return what signed bytes say; raises Malformed or BadSignature. (SPEC.md 3.3)"""
    signed = codec.decode(Signed, data, MAX_STATEMENT)
    statement = codec.decode(Statement, signed.statement, MAX_STATEMENT)
    schema = KINDS.get(statement.kind)
    if schema is None:
        raise Malformed("unknown kind of statement")
    body: Body = codec.decode(schema, statement.body, schema.limit)
    if statement.slot != body.slot or statement.round != body.round:
        raise Malformed("statement is filed under another slot than its body's")
    sender = signing.recover(signed.signature, "statement", signed.statement)
    return Said(sender, statement, body, data)
