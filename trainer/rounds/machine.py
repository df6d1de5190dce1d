"""What a machine's inner steps run on, as peers and `doctor` tell it. No torch: the node process reads it too."""

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
        return (
            f"slow: {self.refused} (a step takes {self.over_float32 / 1000:.1f} times PyTorch's float32 here)"
        )
