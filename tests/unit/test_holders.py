"""Whom a peer asks for a contribution."""

from tests.unit.test_access import world_in
from trainer.peer.deeds import holders_of
from verification.state import Phase


def test_the_author_is_asked_first_then_who_attested_and_then_who_else_decides_the_round() -> None:
    worked = world_in(Phase.ATTEST).state.current
    author, other = worked.commits
    (verifier,) = worked.members.keys() - worked.commits.keys()
    worked.attests.clear()
    worked.attests |= {other: frozenset({other}), verifier: frozenset({author, other})}
    assert list(dict.fromkeys(holders_of(worked, author))) == [author, verifier, other]
    assert set(holders_of(worked, other)) == set(worked.members)
