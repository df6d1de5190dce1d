"""Errors, split by whose fault they are.

    ProofswarmError
    ├── UserError             a person's input: one line that says what is wrong and how to mend it; exit status 2
    ├── Violation             a peer broke the protocol: drop the message, count it, never crash
    │   ├── Malformed         bytes that are no canonical encoding of the expected schema
    │   ├── BadSignature      a signature that does not verify, or by the wrong key
    │   ├── Refused           a well-formed statement that the law does not admit now
    │   └── BadEvidence       an opening or evidence that does not match what it must open
    └── Unavailable           nobody's fault: bytes or a peer out of reach; try again later
        ├── NoRoom            this machine's disk has no more to spare; a person must free some
        └── Unsound           this machine's fault: it makes two different things of one step; try again much later

Anything else that escapes is our own bug and must crash loudly.
"""


class ProofswarmError(Exception):
    """Base of every error this project raises on purpose; never raised itself."""


class UserError(ProofswarmError):
    """A person's input is wrong; the message is one line and names the mend."""


class Violation(ProofswarmError):
    """A peer's bytes or statement break a rule of SPEC.md; the message names the rule's reason."""


class Malformed(Violation):
    """Bytes that do not decode to the expected schema, or are not its canonical encoding."""


class BadSignature(Violation):
    """A signature that does not verify or belongs to another key."""


class Refused(Violation):
    """A well-formed statement that the law does not admit in the present state."""


class BadEvidence(Violation):
    """An opening, list or input that does not match the digest it must open."""


class Unavailable(ProofswarmError):
    """Bytes or a peer cannot be had at the moment; retrying may help."""


class NoRoom(Unavailable):
    """A disk has no room beyond what is kept free; the message is one line and names the mend."""


class Unsound(Unavailable):
    """This machine computes one thing in two ways and gets two results: it must not stand by either."""
