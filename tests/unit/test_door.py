"""How a door counts handshakes that come to nothing, by where they come from."""

import pytest
import trio

from p2p.bounds import Bounds
from p2p.door import BREACH, CROWD, Door
from p2p.errors import Overloaded


def failed(door: Door, place: str, most: int = 100) -> int:
    """Let handshakes fail until one is refused; return how many failed."""
    for number in range(most):
        try:
            with door.greeting(place):
                raise ValueError("no handshake")
        except ValueError:
            continue
        except Overloaded:
            return number
    return most


async def test_handshakes_that_fail_are_counted_by_place(mock_clock: trio.testing.MockClock) -> None:
    door = Door(Bounds(wrongs=10))
    assert failed(door, "a") == 11
    with door.greeting("b"):
        pass
    with pytest.raises(Overloaded, match="too much was wrong"), door.greeting("a"):
        pass
    mock_clock.jump(5.0)
    assert failed(door, "a") == 2


async def test_each_of_many_strangers_is_forgiven_less(mock_clock: trio.testing.MockClock) -> None:
    door = Door(Bounds(wrongs=10))
    crowd, _ = CROWD
    assert [failed(door, f"place {number}", 1) for number in range(crowd)] == [1] * crowd
    assert failed(door, "a") == 1 + 10 // BREACH
    with door.greeting("b"):
        pass
