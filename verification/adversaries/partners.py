"""What a verifier does for a partner that cheats, beside passing its work: convict it, or choose who audits it."""

from verification import law
from verification.adversaries.behaviour import Act, Behaviour
from verification.honest.actions import Say
from verification.honest.decide import Me
from verification.honest.view import View
from verification.sampling import draw_verifier, next_beacon
from verification.signed import make_statement, sign_statement
from verification.state import State, Watch
from verification.statements import VERIFIER, Announce, Contradiction, Finished, Link, Verdict
from verification.units import Address, Count, Digest, Round


class Hurry(Behaviour):
    """Convicts a partner of a contradiction as soon as an honest verdict about a wrong round of its is in."""

    def __init__(self, partner: Me, accomplices: frozenset[Address], first: int) -> None:
        """`partner` signs two statements for one place that the ledger never saw, `accomplices` are verifiers.

        Rounds are wrong from `first` on.
        """
        super().__init__()
        self._partner, self._accomplices, self._first = partner, accomplices, first

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Show the two statements once."""
        if self.faults or not self._is_judged(view.state):
            return wanted
        self.faults += 1
        bodies = tuple(Announce(Round(0), Count(1 << 40), endpoint) for endpoint in ("/one", "/two"))
        state, head = view.state, law.head_of(view.state, bodies[0].round)
        first, second = (
            sign_statement(self._partner.secret, make_statement(state.chain, state.run, head, body))
            for body in bodies
        )
        return [*wanted, Say(Contradiction(first, second))]

    def _is_judged(self, state: State) -> bool:
        return any(
            verifier not in self._accomplices and worker == self._partner.address and work >= self._first
            for session in state.sessions.values()
            for verifier, work, worker in session.verdicts
        )


class Steer(Behaviour):
    """Says nothing in the last round's session, and shows its link or not, as the draw of the last audits suits it.

    It waits until all others have shown theirs, and then knows both beacons. (SPEC.md 5.1)
    """

    def __init__(self, last: int, accomplices: frozenset[Address]) -> None:
        """`last` is the session, `accomplices` are the verifiers to whom the draw should fall."""
        super().__init__()
        self._last, self._accomplices = last, accomplices

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Swallow what is said in that session, and the link where the draw without it is better."""
        kept: list[Act] = []
        for act in wanted:
            body = act.body if isinstance(act, Say) else None
            is_last = body is not None and body.round == self._last
            hides = isinstance(body, Link) and not self._shows(view, body.link)
            if is_last and (hides or isinstance(body, Verdict | Finished)):
                self.faults += 1
            else:
                kept.append(act)
        return kept

    def _shows(self, view: View, link: Digest) -> bool:
        state = view.state
        session = state.sessions.get(Round(self._last))
        if session is None:
            return True
        if session.watch is Watch.REVEAL and set(session.verifiers_without_link()) != {view.me.address}:
            return False
        with_it, without = (
            self._escapes(state, links) for links in ([*state.fresh_links, link], state.fresh_links)
        )
        return with_it >= without

    def _escapes(self, state: State, links: list[Digest]) -> int:
        """Return how many of the last round's workers a beacon gives to accomplices."""
        beacon, last = next_beacon(state.beacon, links, []), state.rounds[-1]
        verifiers = sorted(one for one, member in state.members.items() if member.role == VERIFIER)
        drawn = (
            draw_verifier(
                beacon, last.number, worker, [v for v in verifiers if v not in last.audited.get(worker, ())]
            )
            for worker in last.commits
        )
        return sum(verifier in self._accomplices for verifier in drawn)
