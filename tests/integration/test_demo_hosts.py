"""The demo on hosts of their own: behind routers, late, and with the ledger's host killed, as on one machine."""

import os
from pathlib import Path

import pytest

from tests.swarm import final_state
from tests.tiny import TEXT
from trainer.commands.demo import DemoSettings
from trainer.commands.on_hosts import LATE_ROUND, run_on_hosts
from trainer.events import read_events
from trainer.folder import RunFolder
from trainer.hosts.system import PREFIX, obstacle, spaces
from trainer.runs.ledgers import verify_log

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MODEL = """\
model_type = "llama"
vocab_size = 256
hidden_size = 32
intermediate_size = 48
num_hidden_layers = 1
num_attention_heads = 2
num_key_value_heads = 2
max_position_embeddings = 64
bos_token_id = 0
eos_token_id = 0
"""
"""Some 20,000 parameters."""


def test_a_run_across_hosts_ends_on_the_state_that_one_machine_computes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if obstacle():
        pytest.skip(obstacle())
    text, folder = tmp_path / "text.txt", RunFolder(tmp_path / "run")
    text.write_text(TEXT, encoding="utf-8")
    assert run_on_hosts(DemoSettings(folder.path, "none", 7, 3, 1, 0, text, model=MODEL)) == 0
    assert not spaces(f"{PREFIX}-{os.getpid()}")
    told = capsys.readouterr().out
    assert "computed again on this machine alone, 7 rounds end on the same state" in told
    served = (folder.path / "hosts" / "ledger.log").read_text("utf-8")
    assert served.count("serves run ") == 2
    state = final_state(folder)
    assert state.current.sealed is not None
    for number in range(4):
        own = RunFolder(folder.path / "hosts" / f"peer-{number}")
        names = {path.name for path in own.path.iterdir()}
        assert names - {"host"} == {"blobs", "events", "keys", "ledger.sqlite", "peers", "ticket"}
        (key,), (log,) = own.keys.glob("*.key"), own.events.iterdir()
        assert key.stem == log.stem
        assert verify_log(own) == verify_log(folder)
        events = list(read_events(log))
        assert not [event for event in events if event.get("reason") == "Overloaded"]
        (ended,) = [event for event in events if event["kind"] == "ended"]
        assert ended["digest"] == state.current.sealed.digest.hex()
    assert {len(worked.assignments) for worked in state.rounds[: LATE_ROUND + 1]} == {2}
    assert len(state.current.assignments) == 3
    assert not any(member.slashed for member in state.members.values())
