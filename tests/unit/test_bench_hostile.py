"""What `bench hostile` concludes from its phases."""

from typing import Any

import pytest

from benchmarks import hostile
from benchmarks.hostile import BURNING, QUIET, Phase
from verification.units import Millis

MIB = 1 << 20


def phase(who: str, round_seconds: float, peak: int = 100 * MIB, grown: int = 1000, **more: Any) -> Phase:
    """A phase of a minute in which every round took as long."""
    made = Phase(
        who,
        Millis(0),
        Millis(60_000),
        60.0,
        6.0,
        {"host": peak, "peer-0": 90 * MIB},
        {"log": grown},
        {"host": 3.0},
    )
    made.rounds = [round_seconds] * 5
    made.counts = (
        {"chunk": {"answered": 2, "cut off": more.get("attacks", 1500)}} if who in hostile.RATES else {}
    )
    return made


def played(stranger: Phase, member: Phase) -> list[Phase]:
    """Phases of a whole trial, undisturbed but for the two."""
    return [
        phase(QUIET, 2.0), stranger, phase(BURNING + "stranger", 2.1),
        phase(QUIET, 2.0), member, phase(BURNING + "member", 2.1), phase(QUIET, 2.0),
    ]  # fmt: skip


def test_what_holds_and_by_how_much() -> None:
    counts = {"forged signature": {"BadSignature": 7}, "chunk": {"answered": 2, "cut off": 1}}
    summary = hostile.summarise(
        played(phase("stranger", 2.2, counts=counts), phase("member", 2.4, 130 * MIB))
    )
    assert summary["holds"]
    assert summary["round_seconds"] == 2.0
    assert (summary["stranger_over_undisturbed"], summary["member_over_undisturbed"]) == (1.1, 1.2)
    assert summary["member_over_burning"] == pytest.approx(2.4 / 2.1, abs=1e-3)
    assert (summary["stranger_attacks"], summary["stranger_attacks_a_second"]) == (1502, 25.0)
    assert summary["stranger_processor_share"] == 0.1
    assert summary["member_memory_growth_of"] == "host"
    assert summary["member_memory_growth_mb"] == pytest.approx(31.5)


@pytest.mark.parametrize(
    "member",
    [
        phase("member", 2.41),
        phase("member", 2.0, peak=100 * MIB + 65_000_000),
        phase("member", 2.0, grown=1_001_001),
        phase("member", 2.0, attacks=800),
    ],
)
def test_each_bar_is_missed_alone(member: Phase) -> None:
    assert hostile.summarise(played(phase("stranger", 2.0), phase("member", 2.0)))["holds"]
    assert not hostile.summarise(played(phase("stranger", 2.0), member))["holds"]


def test_what_rounds_write_undisturbed_is_no_growth_of_a_log() -> None:
    """The undisturbed phases have 15 rounds that write 3,000 bytes."""
    attacked = phase("member", 2.0, grown=4_000)
    attacked.rounds = [2.0] * 10
    assert hostile.growth_of_logs(played(phase("stranger", 2.0), attacked), "member") == {"log": 2_000.0}


def test_each_attack_lasts_as_long_as_was_asked_for() -> None:
    for minutes in (0.5, 1, 7, 10):
        phases = hostile.plan(60 * minutes)
        for who in ("stranger", "member"):
            lasted = [seconds for seconds, name in phases if name == who]
            assert len(lasted) >= hostile.PHASES
            assert sum(lasted) == pytest.approx(60 * minutes, rel=0.01)
            assert max(lasted) <= hostile.LONGEST_PHASE
        names = [name for _, name in phases]
        assert all(names[at - 1] == QUIET for at, name in enumerate(names) if name in hostile.RATES)
        assert names[-1] == QUIET
