from hypothesis import given
from hypothesis import strategies as st

from p2p.envelope import Envelope, Limits, ReplayGuard, open_envelope, seal
from p2p.identity import Identity
from p2p.messages import BlobInfo, BlobPage, BlobQuery, Hint, Hints, Reply
from verification.codec import decode, encode
from verification.digest import tagged
from verification.errors import Violation
from verification.units import Address, Count, Digest, Millis, Signature

ALICE = Identity(b"\1" * 32)
RUN = tagged("run")
NOW = Millis(1_700_000_000_000)
LIMITS = Limits({"ask": 4096})
digests = st.binary(min_size=32, max_size=32).map(Digest)
counts = st.integers(0, 2**53).map(Count)
envelopes = st.builds(
    Envelope,
    version=counts,
    run=digests,
    kind=st.text(max_size=20),
    sender=st.binary(min_size=20, max_size=20).map(Address),
    sequence=counts,
    sent_at=counts.map(Millis),
    body=st.binary(max_size=300),
    signature=st.binary(min_size=65, max_size=65).map(Signature),
)
lists = st.lists(digests, max_size=5).map(tuple)
bodies = st.one_of(
    st.builds(Reply, digests, st.text(max_size=20), st.binary(max_size=100)),
    st.builds(BlobQuery, digests, counts),
    st.builds(BlobPage, st.builds(BlobInfo, counts, lists), lists),
    st.builds(Hints, st.lists(st.builds(Hint, st.text(max_size=9), digests, counts), max_size=4).map(tuple)),
)


def opens(data: bytes) -> bool:
    """Return whether the bytes are admitted; anything but a Violation escapes."""
    try:
        open_envelope(data, run=RUN, limits=LIMITS, now=NOW, seen=ReplayGuard())
    except Violation:
        return False
    return True


@given(envelopes)
def test_the_codec_is_its_own_inverse(envelope):
    assert decode(Envelope, encode(envelope)) == envelope


@given(bodies)
def test_bodies_too(body):
    assert decode(type(body), encode(body)) == body


@given(st.binary(max_size=400))
def test_random_bytes_raise_only_violations(data):
    assert not opens(data)


@given(envelopes)
def test_well_formed_envelopes_that_nobody_signed_raise_only_violations(envelope):
    assert not opens(encode(envelope))


@given(envelopes, st.binary(min_size=65, max_size=65))
def test_any_signature_bytes_under_right_fields_raise_only_violations(envelope, signature):
    data = seal(ALICE, RUN, "ask", envelope.body, envelope.sequence, NOW)
    assert not opens(data[:-65] + signature)


@given(st.binary(max_size=300), counts, st.data())
def test_any_changed_byte_is_refused(body, sequence, data):
    good = seal(ALICE, RUN, "ask", body, sequence, NOW)
    assert opens(good)
    where = data.draw(st.integers(0, len(good) - 1))
    flip = data.draw(st.integers(1, 255))
    assert not opens(good[:where] + bytes([good[where] ^ flip]) + good[where + 1 :])


@given(st.binary(max_size=50), st.data())
def test_any_prefix_or_extension_is_refused(body, data):
    good = seal(ALICE, RUN, "ask", body, Count(1), NOW)
    cut = data.draw(st.integers(0, len(good) - 1))
    assert not opens(good[:cut])
    assert not opens(good + data.draw(st.binary(min_size=1, max_size=10)))
