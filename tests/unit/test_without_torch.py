"""Evidence, ledgers and reports are checked without torch and without the network: the law executes by itself."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.checkout import ROOT, environment
from trainer.lifetimes import python

HIDDEN = ("torch", "transformers", "libp2p", "trio", "safetensors", "threadpoolctl")
"""The packages of the `train` extra that something might import."""

VECTORS = ROOT / "tests" / "vectors"

HIDE = f"""
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HIDDEN!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hide())
"""


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process to which those packages do not exist."""
    command = python("-c", HIDE + code, *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment())


COMMAND = "from trainer.cli import main; sys.argv[0] = 'proofswarm'; main()"


def test_a_command_that_needs_more_says_what_to_install(tmp_path: Path) -> None:
    ended = run(COMMAND, "demo", "--out", str(tmp_path / "demo"))
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "pip install 'proofswarm[train]'" in ended.stderr
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("command", [["verify"], ["report"], ["run"], ["demand"]])
def test_help_needs_nothing(command: list[str]) -> None:
    assert run(COMMAND, *command, "--help").returncode == 0


def test_evidence_convicts_where_there_is_no_torch(tmp_path: Path) -> None:
    vector = json.loads((VECTORS / "disputes" / "right-node.json").read_text())
    (tmp_path / "node.evidence").write_bytes(bytes.fromhex(vector["data"]))
    ended = run(COMMAND, "verify", str(tmp_path / "node.evidence"))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("guilty: 0x")


WHOLE_LOG = """
import json
from simulator.toy import ToyLibrary, minimal
from tests.law_vectors import replay

minimal(chain=70, wide=20, slots=10)  # makes the toy programs known
with open(sys.argv[1]) as file:
    log = json.load(file)
*_, ledger = replay(log)
assert not {"torch", "transformers"} & set(sys.modules)
print(len(log), len(ledger.log), sum(dispute.ruling is not None for dispute in ledger.state.disputes))
"""


PEER = """
import sys
import trainer.commands.group
import trainer.commands.join
import trainer.commands.serve
import trainer.peer.rogue
import trainer.peer.runtime

assert not {"torch", "transformers"} & set(sys.modules)
"""


@pytest.mark.slow
def test_a_peers_own_process_holds_no_torch() -> None:
    """Its compute process loads that, meanwhile; a peer starts in half the time without."""
    subprocess.run(python("-c", PEER), check=True, timeout=100, env=environment())


def test_a_whole_log_is_folded_without_torch() -> None:
    """With every kind of statement, and verdicts on numbers and on ranges of terms."""
    ended = run(WHOLE_LOG, str(VECTORS / "law" / "log.json"))
    assert ended.stderr == ""
    entries, folded, rulings = map(int, ended.stdout.split())
    assert entries == folded
    assert rulings > 5
