"""What `bench scale` measures of served ledgers: a small round over real sockets, with the host in its own process."""

import pytest

from benchmarks import following

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_a_round_over_real_sockets_is_counted_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LOOKS", 4)
    row = following.measure(16, 0, seed=5)
    assert row["statements"] > 3 * 16
    log = 300 * row["entries"]  # bytes of a small entry, at least half as much
    assert log / 2 < row["follower_bytes_in"] < 10 * log
    assert row["host_bytes_out"] > 16 * row["follower_bytes_in"] * 0.9
    assert 0 < row["idle_look_seconds"] < row["look_seconds"]
    assert all(row[key] > 0 for key, _ in following.LIMITS.values())
