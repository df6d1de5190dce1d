"""What inner steps run on, and who shares them, as peers and `doctor` tell it. No torch: nodes read it too."""

from dataclasses import dataclass

from verification.units import Count


@dataclass(frozen=True)
class Kernels:
    """What a machine's inner steps run on: product backends, and whether the rest runs on compiled loops.

    `refused` says why compiled kernels that it could have are not used, in one line with the mend, or nothing; then
    `over_float32` is the time of a step over that of PyTorch's own float32 kernels, in thousandths (0: not measured).
    """

    products: tuple[str, ...]
    compiled: bool
    refused: str
    over_float32: Count

    @property
    def complaint(self) -> str:
        """One line for people where compiled kernels are refused: why, and what it costs."""
        if not self.refused:
            return ""
        if not self.over_float32:
            return f"slow: {self.refused}"
        return (
            f"slow: {self.refused} (a step takes {self.over_float32 / 1000:.1f} times PyTorch's float32 here)"
        )


@dataclass(frozen=True)
class HeldShard:
    """A machine's part of a model: how many numbers, the names of its first and last parameter; and of the last
    execution that it told of the microseconds that it waited for others, and the bytes that it sent and received."""

    numbers: Count
    first: str
    last: str
    waited: Count
    sent: Count
    received: Count


@dataclass(frozen=True)
class GroupMember:
    """A machine of a worker group: its records of an inner step, and the microseconds that it computed in the last one,
    without what it waited for the others (0: not known); and what it holds of the model, None: all."""

    records: Count
    micros: Count
    shard: HeldShard | None = None
