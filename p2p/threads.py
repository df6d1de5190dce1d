"""Blocking calls to the network that nobody waits for once they are cancelled."""

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")


async def leaving(function: Callable[..., T], *rest: object) -> T:
    """Return what a blocking function returns; who is cancelled leaves it to end by itself."""
    # trio-typing, which py-libp2p brings, knows an older trio.
    return await trio.to_thread.run_sync(function, *rest, abandon_on_cancel=True)  # type: ignore[call-arg]
