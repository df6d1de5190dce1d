"""Whole swarms of real processes on a tiny model: honest, cheated, killed, lied to and stalled."""

import contextlib
import json
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest
import trio
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError
from multiaddr import Multiaddr

from p2p.envelope import SIGNATURE_BYTES, VERSION, Envelope, first_sequence, seal
from p2p.hints import Rumours
from p2p.host import PostOffice
from p2p.identity import Identity, load
from p2p.lists import info_digest
from p2p.messages import ChunkBytes, Hints
from p2p.questions import CHUNK, LIST
from p2p.transport import ANY_LOCAL_PORT, PROTOCOL, PeerAddress, make_host
from tests.pages import first_page
from tests.patience import PATIENCE
from tests.swarm import PeerProcess, final_digests, final_state, places, swarm
from tests.tiny import make_run
from trainer.commands.demand import run_demand
from trainer.commands.ending import Cheat, checks
from trainer.commands.recompute import recompute
from trainer.commands.report import read_report, write_report
from trainer.folder import RunFolder
from trainer.programs.options import NODE_BY_NODE
from trainer.rounds.cheats import conduct_named
from trainer.runs.library import StoredPrograms
from verification import codec, law, signing
from verification.digest import ZERO, tagged
from verification.evidence.retrial import verify
from verification.ledger.local import LocalLedger, read_genesis, system_clock
from verification.manifest import BundleRef, Place
from verification.sampling import leaf_steps
from verification.signed import make_statement, sign_statement
from verification.state import Phase, Ruling, Stage, Standing
from verification.statements import VERIFIER, WORKER, Body, Commit, Join
from verification.units import Address, Amount, Count, Digest, Signature

pytestmark = [pytest.mark.integration, pytest.mark.slow]
STRANGER = Identity(b"\x66" * 32)


def made(folder: Path, workers: int, verifiers: int, **changes: Any) -> RunFolder:
    """Make a run for so many peers; `changes` are job keys with two underscores for the dot."""
    keys = {name.replace("__", "."): value for name, value in changes.items()}
    sizes = {"swarm.workers": workers, "swarm.min_workers": workers, "swarm.verifiers": verifiers}
    sizes |= {"swarm.min_verifiers": verifiers, "accounts.peers": workers + verifiers}
    return make_run(folder, {**sizes, **keys}, accept_unsound=keys.get("swarm.audit_rate") == 0.0).folder


def assert_nobody_contradicts_itself(folder: RunFolder, peers: list[PeerProcess]) -> None:
    """Every place holds one statement, and each is the one in its author's journal."""
    said = places(folder)
    assert all(len(datas) == 1 for datas in said.values())
    on_ledger = {data for datas in said.values() for data in datas}
    for peer in peers:
        connection = sqlite3.connect(folder.keys / f"{peer.account}.said.sqlite")
        journal = {bytes(data) for (data,) in connection.execute("SELECT data FROM said")}
        connection.close()
        own = {
            data
            for (author, *_), datas in said.items()
            for data in datas
            if signing.checksum(author) == peer.account
        }
        assert own
        assert own <= journal
        assert journal & on_ledger == own


def test_an_honest_swarm_ends_on_one_state_and_shows_what_is_demanded(tmp_path: Path) -> None:
    folder = made(tmp_path, 2, 1, training__rounds=6, accounts__peers=4)
    said: list[str] = []
    with swarm(folder, [WORKER, WORKER, VERIFIER]) as peers:
        peers[0].wait_line(lambda line: line.startswith("state round=1"))
        assert run_demand(folder, folder.keys / "peer-3.key", None, "peer-1", said.append) == 0
        assert [peer.wait() for peer in peers] == [0, 0, 0]
        assert len(final_digests(peers)) == 1
    report = read_report(folder)
    assert report.result.ok
    assert (len(report.rounds), report.disputes) == (6, ())
    assert {audit.outcome for entry in report.rounds for audit in entry.audits} == {"pass"}
    assert len([audit for entry in report.rounds for audit in entry.audits]) == 12
    stranger = signing.checksum(load(folder.keys / "peer-3.key").address)
    assert said[0].startswith(f"{stranger} pays 1000 to see a chunk of peer-1's contribution to round ")
    assert said[1].startswith("shown by peer-")
    assert not any(peer.events("refused") or peer.events("dropped") for peer in peers)
    assert_nobody_contradicts_itself(folder, peers)
    check_that_one_machine_computes_the_same(folder, final_digests(peers))


def check_that_one_machine_computes_the_same(folder: RunFolder, digests: set[str]) -> None:
    """The run comes out again, and would not if one of its workers had trained otherwise."""
    holds, told = recompute(folder, NODE_BY_NODE, {})
    assert holds
    assert {digest for digest in digests if told.endswith(digest[:16])} == digests
    worker = load(folder.keys / "peer-1.key").address
    holds, told = recompute(folder, NODE_BY_NODE, {worker: conduct_named("noise", 2)})
    assert not holds
    assert f"what {signing.checksum(worker)} made in round 2 comes out differently" in told


CHEATS = {"skip-steps": Place.STEP, "noise": Place.EPILOGUE, "stale": Place.PROLOGUE}


@pytest.mark.timeout(700)
def test_cheats_are_convicted_where_they_cheated_and_by_their_own_words(tmp_path: Path) -> None:
    """All in one run, from round 1 on: three ways to train wrongly, and one to say two things."""
    names = [*CHEATS, "equivocate"]
    folder = made(tmp_path, 1 + len(names), 1)
    options = {n: ("--cheat", name, "--cheat-from", "1") for n, name in enumerate(names, 1)}
    with swarm(folder, [WORKER] * (1 + len(names)) + [VERIFIER], options) as peers:
        assert [peer.wait(2 * PATIENCE) for peer in peers] == [0] * len(peers)
        assert len(final_digests([peers[0], peers[-1]])) == 1
    state = final_state(folder)
    convicts = {name: load(folder.keys / f"peer-{n}.key").address for n, name in enumerate(names, 1)}
    for name, place in CHEATS.items():
        convict = convicts[name]
        found = next(
            dispute for dispute in state.disputes if (dispute.round, dispute.accused) == (1, convict)
        )
        assert (found.ruling, found.place) == (Ruling.GUILTY, place)
        assert found.game.claimed != found.computed
        if place is Place.STEP:
            assert found.game.high == state.rounds[1].assignments[convict].steps // 2 + 1
        assert (
            state.members[convict].slashed
            == sum(d.slashed for d in state.disputes if d.accused == convict)
            > 0
        )
    liar = convicts["equivocate"]
    assert not any(dispute.accused == liar for dispute in state.disputes)
    assert len(peers[names.index("equivocate") + 1].events("misbehaved")) == 1
    assert {convict: state.members[convict].standing for convict in convicts.values()} == dict.fromkeys(
        convicts.values(), Standing.EXCLUDED
    )
    assert {address for address, m in state.members.items() if m.slashed} == set(convicts.values())
    report = write_report(folder)
    assert report.result.ok
    told = {signing.checksum(convicts[name]): Cheat((name,), 1) for name in names}
    found = checks(report, told, {peer.id for peer in report.peers})
    assert [line for holds, line in found if not holds] == []
    assert len(report.result.lost) == len(names)
    check_evidence(folder, {"output", "contradiction"}, set(convicts.values()))


def check_evidence(folder: RunFolder, kinds: set[str], accused: set[Address]) -> None:
    """Every file of evidence convicts, as `proofswarm verify` reads it; together they are about these."""
    findings = [verify(path.read_bytes()) for path in folder.evidence.glob("*.evidence")]
    assert {finding.accused for finding in findings} == accused
    assert {finding.kind for finding in findings} >= kinds


def test_a_lie_in_compressed_bytes_is_convicted_while_rounds_overlap(tmp_path: Path) -> None:
    """Nobody attests it, for its norm is another; the auditor's bytes are the honest worker's, and the law agrees."""
    folder = made(
        tmp_path, 3, 1, training__compression="top-k", training__density=0.05, training__overlap=True
    )
    with swarm(folder, [WORKER] * 3 + [VERIFIER], {1: ("--cheat", "noise", "--cheat-from", "1")}) as peers:
        assert [peer.wait(2 * PATIENCE) for peer in peers] == [0] * 4
        assert len(final_digests([peers[0], peers[2], peers[3]])) == 1
    state, convict = final_state(folder), load(folder.keys / "peer-1.key").address
    assert {(each.accused, each.place, each.ruling) for each in state.disputes} == {
        (convict, Place.EPILOGUE, Ruling.GUILTY)
    }
    assert [convict in worked.included for worked in state.rounds] == [True, False, False]
    assert [worked.start for worked in state.rounds[1:]] == [state.manifest.start, state.rounds[0].sealed]
    assert {address for address, member in state.members.items() if member.slashed} == {convict}
    holds, told = recompute(folder, NODE_BY_NODE, {})
    assert holds, told
    assert write_report(folder).result.ok
    check_evidence(folder, {"output"}, {convict})


def test_killed_peers_come_back_and_never_contradict_themselves(tmp_path: Path) -> None:
    folder = made(tmp_path, 2, 2, training__rounds=5)
    # A killed worker logs, another one, and a killed verifier.
    logs = {number: tmp_path / f"{number}.jsonl" for number in range(3)}
    log_to = {number: ["--log-to", str(path)] for number, path in logs.items()}
    with swarm(folder, [WORKER] * 2 + [VERIFIER] * 2, log_to) as peers:
        worker, verifier = peers[0], peers[2]
        worker.wait_line(lambda line: line.startswith("computed round=1"))
        worker.kill()
        verifier.kill()
        worker.restart()
        verifier.restart()
        assert [peer.wait() for peer in peers] == [0] * 4
        assert [peer.kills for peer in peers] == [1, 0, 1, 0]
        assert [len(peer.events("started")) for peer in peers] == [2, 1, 2, 1]
        assert len(final_digests(peers)) == 1
    state = final_state(folder)
    assert (state.stage, len(state.rounds)) == (Stage.ENDED, 5)
    assert not any(member.slashed for member in state.members.values())
    assert not state.disputes
    assert all(member.standing is Standing.ACTIVE for member in state.members.values())
    assert_nobody_contradicts_itself(folder, peers)
    rows = [json.loads(line) for line in logs[0].read_text().splitlines()]
    assert [row["round"] for row in rows if row["name"] == "train/round_seconds"] == list(range(5))
    assert logs[0].read_bytes() == logs[1].read_bytes() == logs[2].read_bytes()


def test_a_stalled_worker_costs_only_its_own_contribution(tmp_path: Path) -> None:
    windows = {"windows__commit": 15.0, "windows__attest": 20.0, "windows__seal": 20.0}
    folder = made(tmp_path, 3, 1, swarm__min_workers=2, training__rounds=200, **windows)
    with swarm(folder, [WORKER] * 3 + [VERIFIER], workers_first=True) as peers:
        steady, stalled = peers[0], peers[2]
        stalled.wait_line(lambda line: line.startswith("state round=1"))  # it computes now, and holds no lock
        seen = len(steady.lines())
        stalled.signal(signal.SIGSTOP)
        number = 2 + round_of(steady.wait_line(lambda line: line.startswith("state round="), seen))
        steady.wait_line(lambda line: line.startswith(f"state round={number} "), seen)
        before = len(stalled.lines())
        stalled.signal(signal.SIGCONT)
        own = f"worker={stalled.account} own=True"
        back = round_of(stalled.wait_line(lambda line: own in line and round_of(line) >= number, before))
        ends = {peer.wait_line(lambda line: line.startswith(f"state round={back + 1} ")) for peer in peers}
        assert len(ends) == 1
    state = final_state(folder)
    address = load(folder.keys / "peer-2.key").address
    missed = [worked.number for worked in state.rounds if address not in worked.included]
    assert number - 1 in missed
    others = {load(folder.keys / f"peer-{index}.key").address for index in (0, 1)}
    assert all(others <= set(worked.included) for worked in state.rounds[: back + 1])
    assert address in state.rounds[back].included
    assert not any(member.slashed for member in state.members.values())


def round_of(line: str) -> int:
    """Return the round that a peer's line is of."""
    return int(line.split()[1].removeprefix("round="))


def hint(run: Digest, version: int = VERSION, by: Identity = STRANGER, step: int = 0) -> bytes:
    """Return a signed envelope with no news in it, number `step` of its sender."""
    now = system_clock()
    body = codec.encode(Hints(()))
    if version == VERSION:
        return seal(by, run, "hint", body, Count(first_sequence(now) + step), now)
    blank = Signature(bytes(SIGNATURE_BYTES))
    envelope = Envelope(Count(version), run, "hint", by.address, first_sequence(now), now, body, blank)
    signed = codec.encode(envelope)[:-SIGNATURE_BYTES]
    return signed + signing.sign(by.secret, "envelope", signed)


def junk(run: Digest) -> dict[str, list[bytes]]:
    """Return what a hostile client writes on one stream each, by the reason why it is refused."""
    good, again = hint(run), hint(run, step=1)

    def framed(data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + data

    return {
        "Oversized": [(1 << 31).to_bytes(4, "big") + b"x"],
        "Truncated": [framed(good)[:50]],
        "Malformed": [framed(good[:1] + b"\xcc\x01" + good[2:])],
        "BadSignature": [framed(good[:-1] + bytes([good[-1] ^ 1]))],
        "WrongSender": [framed(hint(run, by=Identity(b"\x67" * 32)))],
        "UnknownVersion": [framed(hint(run, version=VERSION + 1))],
        "WrongRun": [framed(hint(tagged("another run")))],
        "Replayed": [framed(again), framed(again)],
    }


async def exhaust(stream: INetStream) -> None:
    """Read until the other side ends or resets the stream."""
    with contextlib.suppress(BaseLibp2pError):
        while await stream.read(65536):
            pass


async def throw_junk(address: PeerAddress, run: Digest) -> list[str]:
    """Send every kind of junk to a running peer from a host of our own; returns the reasons expected."""
    host, info = make_host(STRANGER), address.info()
    sent = []
    async with host.run([Multiaddr(ANY_LOCAL_PORT)]):
        await host.connect(info)
        for reason, pieces in junk(run).items():
            stream = await host.new_stream(info.peer_id, [PROTOCOL])
            with contextlib.suppress(BaseLibp2pError):
                for piece in pieces:
                    await stream.write(piece)
                await stream.close_write()
            await exhaust(stream)
            sent.append(reason)
    return sent


class Liar:
    """A member that commits to a blob, and answers questions for its bytes with others."""

    def __init__(self, folder: RunFolder) -> None:
        """Take the last worker's key."""
        genesis = read_genesis(folder.ledger)
        self.identity = load(folder.keys / "peer-2.key")
        self.run, self.lies = genesis.run, 0
        self.post = PostOffice(self.identity, self.run, system_clock)
        self.news = Rumours(self.post, tuple, system_clock)
        self.ledger = LocalLedger(folder.ledger, StoredPrograms(_store(folder), genesis.manifest))
        self.page = first_page(b"x" * 1000)
        self.post.register(LIST, self._list)
        self.post.register(CHUNK, self._chunk)

    async def _list(self, sender: object, body: bytes) -> bytes:
        return codec.encode(self.page)

    async def _chunk(self, sender: object, body: bytes) -> bytes:
        self.lies += 1
        return codec.encode(ChunkBytes(b"y" * 1000))

    def say(self, body: Body) -> None:
        """Sign a statement and put it on the ledger."""
        self.ledger.catch_up()
        state = self.ledger.state
        head = law.head_of(state, body.round)
        self.ledger.submit(
            sign_statement(self.identity.secret, make_statement(state.chain, state.run, head, body))
        )

    async def commit(self) -> None:
        """Wait until the first round is open and commit to the blob."""
        self.ledger.catch_up()
        while not self.ledger.state.rounds:
            await self.news.receive()
            self.ledger.catch_up()
        current = self.ledger.state.current
        assert current.phase is Phase.COMMIT
        steps = leaf_steps(current.assignments[self.identity.address].steps, 2)
        reference = BundleRef(tagged("nothing"), info_digest(self.page.info))
        self.say(
            Commit(
                current.number,
                current.start.digest,
                tagged("leaves", bytes(steps)),
                reference,
                Count(1),
                ZERO,
            )
        )


def _store(folder: RunFolder) -> Any:
    from p2p.blobs import BlobStore

    return BlobStore(folder.blobs)


async def test_lies_and_junk_are_refused_counted_and_harm_nobody(tmp_path: Path) -> None:
    windows = {
        "windows__commit": 90.0,
        "windows__attest": 30.0,
        "windows__seal": 30.0,
        "swarm__miss_limit": 1,
    }
    folder = await trio.to_thread.run_sync(
        lambda: made(tmp_path, 3, 1, swarm__min_workers=2, swarm__audit_rate=0.0, **windows)
    )
    liar = Liar(folder)
    with trio.fail_after(PATIENCE):
        async with liar.post:
            liar.say(Join(WORKER, Amount(1_000_000), Count(1), ZERO, liar.post.address.multiaddr))
            with swarm(folder, [WORKER, WORKER]) as workers:
                for worker in workers:  # else the run might begin with the liar and one of them
                    await trio.to_thread.run_sync(worker.wait_line, lambda line: line.startswith("measured "))
                verifier = PeerProcess(folder, "peer-3", VERIFIER)
                peers = [*workers, verifier]
                try:
                    await liar.commit()
                    started = peers[0].lines("started ")[-1]
                    address = PeerAddress.parse(started.split("listen=")[1].split()[0])
                    expected = await throw_junk(address, liar.run)
                    statuses = [await trio.to_thread.run_sync(peer.wait) for peer in peers]
                finally:
                    verifier.stop()
    assert statuses == [0, 0, 0]
    assert len(final_digests(peers)) == 1
    refused = [e["reason"] for e in peers[0].events("refused") if e["sender"] == "strangers"]
    assert sorted(refused) == sorted(expected)
    assert len(expected) == 8
    _assert_the_lies_were_noticed(folder, liar, peers)


def _assert_the_lies_were_noticed(folder: RunFolder, liar: Liar, peers: list[PeerProcess]) -> None:
    who = signing.checksum(liar.identity.address)
    assert liar.lies >= len(peers)
    for peer in peers:
        dropped = [event for event in peer.events("dropped") if event["source"] == who]
        assert {event["reason"] for event in dropped} == {"BadEvidence"}
        assert any(event["sender"] == who for event in peer.events("refused"))
    state = final_state(folder)
    first = state.rounds[0]
    assert liar.identity.address in first.commits
    assert liar.identity.address not in first.included
    assert len(first.included) == 2
    assert not any(m.slashed for address, m in state.members.items() if address != liar.identity.address)
