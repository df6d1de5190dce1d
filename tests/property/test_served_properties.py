"""What followers and hosts say to each other: one encoding, no bytes that crash either, one log however it is cut."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.memory import Clock, MemoryLedger
from simulator.toy import minimal
from tests.contract.ledgers import SECRET
from verification import law
from verification.codec import decode, encode
from verification.digest import ZERO, tagged
from verification.errors import Unavailable, Violation
from verification.ledger import heads, served
from verification.ledger.heads import (
    FORK,
    Fork,
    Head,
    SignedHead,
    pack_fork,
    sign_head,
    unpack_fork,
    verify_fork,
)
from verification.ledger.log import Entry, Genesis
from verification.ledger.remote import Remote
from verification.ledger.served import (
    REFUSALS,
    AskHead,
    Follow,
    Followed,
    Host,
    Piece,
    Submit,
    Submitted,
)
from verification.ledger.view import MAX_CONTRADICTION
from verification.manifest import cost_of_round
from verification.signed import make_statement, sign_statement
from verification.signing import address_of
from verification.statements import Join
from verification.units import Address, Amount, Count, Digest, Millis, Signature

NAMES = "abcde"
digests = st.binary(min_size=32, max_size=32).map(Digest)
counts = st.integers(0, 2**53).map(Count)
times = counts.map(Millis)
signed = st.builds(SignedHead, st.binary(max_size=90), st.binary(min_size=65, max_size=65).map(Signature))
pieces = st.builds(Piece, counts, times, st.text(max_size=9), counts, st.binary(max_size=60), digests)
lines = st.text(max_size=300).filter(str.isprintable)
messages = st.one_of(
    st.builds(Head, digests, counts, digests, times),
    signed,
    st.builds(Fork, st.just(FORK), signed, signed),
    st.builds(Submit, st.binary(max_size=60)),
    st.builds(Submitted, st.booleans(), st.sampled_from(["", *REFUSALS]), lines, signed),
    st.builds(Follow, counts, counts, counts),
    st.builds(Followed, st.lists(pieces, max_size=4).map(tuple), st.lists(st.binary()).map(tuple), signed),
    st.builds(AskHead, st.none() | counts),
)


def served_run() -> MemoryLedger:
    """Return the ledger of a run that some have joined, one of them twice."""
    keys = [hashlib.sha256(name.encode()).digest() for name in NAMES]
    manifest = minimal(slots=8, min_workers=8)
    balances = tuple((address_of(key), Amount(20_000)) for key in keys)
    deposit = Amount(cost_of_round(manifest) * manifest.work.rounds)
    genesis = Genesis(manifest, "toy", ZERO, Address(bytes(20)), balances, deposit)
    ledger = MemoryLedger.found(genesis, Clock(Millis(1_000)))
    for key in keys:
        join = Join("worker", Amount(10_000), Count(1), ZERO, f"/toy/{key.hex()[:4]}")
        statement = make_statement(ledger.state.chain, ledger.state.run, law.GENESIS_HEAD, join)
        ledger.submit(sign_statement(key, statement))
    return ledger


LEDGER = served_run()
HOST = Host(LEDGER, SECRET)
RUN = LEDGER.state.run


def kept(entry: Entry) -> dict[str, object]:
    """Return what of an entry is sent."""
    return {name: value for name, value in vars(entry).items() if name != "effects"}


def outcome(name: str, body: bytes) -> str:
    """Return how the host answers, by name; anything but a refusal escapes."""
    try:
        HOST.answer(name, body)
    except (Violation, Unavailable) as error:
        return type(error).__name__
    return "ok"


@given(messages)
def test_the_codec_is_its_own_inverse(message: object) -> None:
    assert decode(type(message), encode(message)) == message


@given(st.sampled_from(["submit", "follow", "head"]), st.binary(max_size=80) | messages.map(encode))
def test_no_question_crashes_the_host(name: str, body: bytes) -> None:
    before = len(LEDGER.log)
    assert outcome(name, body) in {"ok", "Malformed", "Unavailable"}
    assert len(LEDGER.log) == before


@given(st.sampled_from(["submit", "follow", "head"]), st.binary(max_size=80) | messages.map(encode))
def test_no_answer_crashes_a_follower(name: str, body: bytes) -> None:
    remote = Remote(lambda *question: body, HOST.address, RUN)
    with pytest.raises(Violation):
        {
            "submit": lambda: remote.submit(b""),
            "follow": lambda: remote.follow(0, 0),
            "head": lambda: remote.head(None),
        }[name]()


@given(st.data())
def test_an_answer_with_any_byte_changed_is_refused_or_says_the_same(data: st.DataObject) -> None:
    answer = HOST.answer("follow", encode(Follow(Count(0), Count(0), Count(0))))
    place, flip = data.draw(st.integers(0, len(answer) - 1)), data.draw(st.integers(1, 255))
    changed = answer[:place] + bytes([answer[place] ^ flip]) + answer[place + 1 :]
    try:
        found = Remote(lambda *question: changed, HOST.address, RUN).follow(0, 0)
    except Violation:
        return
    # What is in an entry is for the fold to judge; the signed head is not touched.
    assert found.newest.head == LEDGER.state.head


@given(room=st.integers(100, 900), most=st.integers(1, 4))
def test_a_log_is_the_same_however_it_is_cut(room: int, most: int) -> None:
    remote, records, answers = Remote(HOST.answer, HOST.address, RUN), [], 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served, "ANSWER_BYTES", room)
        patch.setattr(served, "ANSWER_ENTRIES", most)
        while len(records) < len(LEDGER.log):
            records += remote.follow(len(records), 0).records
            answers += 1
    assert [vars(record) for record in records] == [kept(entry) for entry in LEDGER.log]
    total = sum(len(entry.data) for entry in LEDGER.log)
    assert answers >= max(total // room, len(LEDGER.log) // most)


@given(room=st.integers(1, 4096), most=st.integers(1, 8))
def test_no_answer_is_longer_than_it_may_be(room: int, most: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(served, "ANSWER_BYTES", room)
        patch.setattr(served, "ANSWER_ENTRIES", most)
        answer = HOST.answer("follow", encode(Follow(Count(0), Count(0), Count(0))))
    assert len(answer) <= room + most * served.ENTRY_OVERHEAD + 512


def a_fork() -> bytes:
    """Return the file that proves a fork of a run's log at entry 7."""
    one, other = (Head(RUN, Count(7), tagged(name), Millis(at)) for name, at in (("one", 5), ("other", 9)))
    return pack_fork(sign_head(SECRET, one), sign_head(SECRET, other))


def test_two_heads_for_one_number_prove_a_fork() -> None:
    found = verify_fork(unpack_fork(a_fork()))
    assert (found.host, found.run, found.seq) == (address_of(SECRET), RUN, 7)
    assert found.heads == (tagged("one"), tagged("other"))
    assert found.times == (5, 9)


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        (Head(RUN, Count(8), tagged("other"), Millis(9)), "two places"),
        (Head(tagged("elsewhere"), Count(7), tagged("other"), Millis(9)), "two places"),
        (Head(RUN, Count(7), tagged("one"), Millis(9)), "equal"),
    ],
)
def test_other_heads_prove_none(other: Head, complaint: str) -> None:
    one = sign_head(SECRET, Head(RUN, Count(7), tagged("one"), Millis(5)))
    with pytest.raises(Violation, match=complaint):
        pack_fork(one, sign_head(SECRET, other))


def test_heads_of_two_keys_prove_none() -> None:
    one, other = (Head(RUN, Count(7), tagged(name), Millis(5)) for name in ("one", "other"))
    with pytest.raises(Violation, match="two keys"):
        pack_fork(sign_head(SECRET, one), sign_head(bytes(31) + b"\2", other))


@given(st.data())
def test_a_fork_with_any_byte_changed_convicts_nobody_else(data: st.DataObject) -> None:
    file = a_fork()
    place, flip = data.draw(st.integers(0, len(file) - 1)), data.draw(st.integers(1, 255))
    changed = file[:place] + bytes([file[place] ^ flip]) + file[place + 1 :]
    with pytest.raises(Violation):
        verify_fork(unpack_fork(changed))


@given(st.binary(max_size=heads.MAX_FORK) | messages.map(encode))
def test_no_file_crashes_its_reader(data: bytes) -> None:
    with pytest.raises(Violation):
        verify_fork(unpack_fork(data))


def test_the_largest_contradiction_fits_an_answer() -> None:
    assert MAX_CONTRADICTION <= served.ANSWER_BYTES
