"""Ways in which a peer's message breaks the post office's rules; refusals are counted under these classes' names."""

from p2p.messages import BlobInfo
from verification.errors import Unavailable, Violation


class Oversized(Violation):
    """A message, or the body of its kind, is longer than its reader admits."""


class Overlong(Oversized):
    """A blob that its own chunk list makes longer than its reader admits."""

    def __init__(self, message: str, info: BlobInfo) -> None:
        super().__init__(message)
        self.info = info


class UnknownVersion(Violation):
    """An envelope of a version that this program does not speak."""


class WrongRun(Violation):
    """An envelope that belongs to another run."""


class UnknownKind(Violation):
    """An envelope of a kind that nobody here handles."""


class WrongSender(Violation):
    """The signer of an envelope is not the peer at the other end of the connection."""


class Replayed(Violation):
    """An envelope whose sequence number was seen before, or has left the window of those still admitted."""


class Stale(Violation):
    """An envelope sent longer ago, or further in the future, than clocks may differ.

    `age` is the milliseconds by which its sender's clock is behind this machine's, if it came at once.
    """

    def __init__(self, message: str, age: int = 0) -> None:
        super().__init__(message)
        self.age = age


class Skewed(Unavailable):
    """This machine's clock and another's differ by more than messages may."""


class Overloaded(Violation):
    """A peer uses more streams, or sends more hints, than it is granted."""


class Truncated(Violation):
    """A stream that ended, or stood still too long, in the middle of a message."""


class Untaken(Violation):
    """A peer that does not read the answer that it asked for."""


class BrokenProtocol(Violation):
    """A stream that breaks the protocols below the post office's own."""


class WrongReply(Violation):
    """A reply that answers another request than the one asked."""


class Declined(Unavailable):
    """The asked peer answered that it will not serve this request; `reason` is the name that it gave."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type["Declined"], tuple[str, str]]:
        """Return how another process makes it again."""
        return type(self), (str(self), self.reason)


class WrongKey(Unavailable):
    """At a peer's address another key answers than the peer's."""


class Underway(Unavailable):
    """A blob that another process fetches into the same store."""


class Busy(Unavailable):
    """Those who are no members have used up what is granted to all of them together."""


FAULT, UNKNOWN = "Fault", "Unknown"
"""Reasons without a class: the peer's own program failed, and any word that a peer made up."""


def _names(kind: type[Exception]) -> set[str]:
    return {kind.__name__}.union(*(_names(below) for below in kind.__subclasses__()))


REASONS = frozenset({FAULT} | _names(Violation) | _names(Unavailable))
"""What a peer may say why it does not answer; its other words reach nobody."""
