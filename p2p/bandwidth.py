"""How fast bytes go onto a link and come from it, where its owner sets a limit: statements before tensors."""

import trio

IDLE = float("-inf")


class Meter:
    """When a link is free of the bytes that were put on it. Pure: `now` is in seconds, and never goes back."""

    def __init__(self, rate: int) -> None:
        """`rate` is in bytes a second."""
        self._rate, self._free_at = rate, IDLE

    def charge(self, size: int, now: float) -> None:
        """Put `size` bytes behind those that are there."""
        self._free_at = max(self._free_at, now) + size / self._rate

    def wait(self, now: float) -> float:
        """Return the seconds until the link is free."""
        return max(0.0, self._free_at - now)


class Link:
    """One direction of a peer's link. Bulk waits until all that went before is through; all else goes at once, and
    counts, so that bulk makes room for it."""

    def __init__(self, rate: int | None) -> None:
        """`rate` is in bytes a second; None sets no limit."""
        self._meter = None if rate is None else Meter(rate)
        self._bulk = trio.Lock()

    @property
    def is_full(self) -> bool:
        """Whether what is bulk would have to wait."""
        return self._meter is not None and self._meter.wait(trio.current_time()) > 0

    async def turn(self, size: int, is_bulk: bool) -> None:
        """Wait until `size` bytes may go, and count them; bulk goes in order of arrival."""
        if self._meter is None:
            return
        if not is_bulk:
            self._meter.charge(size, trio.current_time())
            return
        async with self._bulk:
            while self.is_full:
                pause = self._meter.wait(trio.current_time())
                await trio.sleep(pause)
            self._meter.charge(size, trio.current_time())
