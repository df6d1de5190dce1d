"""What an honest peer does next, as a pure function of the ledger's state and of what it has computed so far.

`decide` names actions; a driver performs them (over sockets, or in a simulation) and files what came out in `Results`.
An action without a result is repeated until it has one, so a peer that lost everything but its key and its signed
statements simply computes again and says the same. (SPEC.md 9)
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from verification import audits, disputes
from verification.audits import blind_of
from verification.contradiction import betrays
from verification.digest import ZERO, integer, keyed
from verification.honest.actions import (
    Action,
    FetchContribution,
    FetchState,
    OpenChunk,
    ReadStatement,
    Results,
    RunOuter,
    RunRound,
    Say,
)
from verification.honest.catching_up import KEPT_ROUNDS, catch_up, is_ready, outer_step
from verification.honest.moves import moves_in
from verification.law import head_of
from verification.manifest import BundleRef, Place, Post
from verification.membership import can_return
from verification.outer import pending
from verification.rounds import works
from verification.sampling import chain_link, is_private_duty
from verification.signed import open_statement
from verification.state import (
    Duty,
    Member,
    Phase,
    RoundState,
    Ruling,
    Session,
    Stage,
    Standing,
    State,
    Watch,
    is_convicted,
    open_questions,
    state_before,
    work_begins,
)
from verification.statements import (
    VERIFIER,
    Announce,
    Attest,
    ChallengeSeal,
    Commit,
    Contradiction,
    Finished,
    Join,
    Link,
    Opening,
    Reveal,
    Seal,
    Spoiled,
    Stuck,
    Verdict,
    Withdraw,
)
from verification.units import Address, Amount, Count, Digest, Millis, Round
from verification.waiting import grace_ends, hurry_begins, is_awaited


@dataclass(frozen=True)
class Me:
    """What a peer is: its account, secret, and how it joins, perhaps with a shard that it holds. What it makes of its
    secret is for one run only."""

    address: Address
    secret: bytes = field(repr=False)
    role: str
    stake: Amount
    speed: int
    endpoint: str
    post: Post | None = None

    def salts(self, run: Digest, number: int, leaves: int) -> tuple[Digest, ...]:
        """Return a round's salts: nobody else can make them, and a restarted peer makes them again. (SPEC.md 4.3)"""
        place = run, integer(number)
        return tuple(keyed(self.secret, "salt", *place, integer(leaf)) for leaf in range(leaves))

    def blind_salt(self, run: Digest, session: int, work: int, worker: Address) -> Digest:
        """Return the salt of a blind verdict. (SPEC.md 5.5)"""
        return keyed(self.secret, "blind-salt", run, integer(session), integer(work), worker)

    def link(self, state: State, session: int) -> Digest:
        """Return this verifier's link of a session, one for each round; -1 for the tip that it joins with."""
        return chain_link(keyed(self.secret, "chain", state.run), state.manifest.work.rounds, session + 1)


def decide(state: State, me: Me, results: Results, now: Millis) -> list[Action]:
    """Return what an honest peer should do now, most urgent first; Computed actions already done are left out.

    (SPEC.md 9.1)
    """
    member = state.members.get(me.address)
    if member is None:
        return [] if state.stage in (Stage.DRAINING, Stage.ENDED) else [Say(_join(state, me))]
    if state.stage is Stage.ENDED:
        last = FetchState(Round(len(state.rounds)))
        # Not one after the other: a last state that nobody serves any more must not lock the stake.
        fetch: list[Action] = [last] if last not in results.done else []
        return [*fetch, Say(Withdraw())] if member.stake else fetch
    exchanged = list(_exchange(state, me, results, now))
    verifies = member.role == VERIFIER
    work = list(
        _verify(state, me, results)
        if verifies
        else [*_train(state, me, results), *_betrayed(state, me, results)]
    )
    if any(isinstance(act, RunOuter) and state.rounds[act.number].phase is Phase.SEAL for act in exchanged):
        # Everyone waits for the seal, and a machine that has begun an audit reads its blobs and digests them first.
        work = [act for act in work if not isinstance(act, RunRound)]
    wanted = [
        *_present_oneself(state, member, me, results, now),
        *exchanged,
        *catch_up(state, member, results),
        *_contest(state, me, results),
        *_serve(state, me, results),
        *_open(state, me, results),
        *work,
    ]
    return [action for action in wanted if isinstance(action, Say) or action not in results.done]


def report_contradictions(
    state: State, me: Me, found: Iterable[tuple[Address, bytes, bytes]]
) -> list[Action]:
    """Report (author, first, second): two statements of a member for one place, until it is excluded. (SPEC.md 6.9)"""
    if me.address not in state.members or state.stage is Stage.ENDED:
        return []
    members = state.members
    return [
        Say(Contradiction(first, second))
        for author, first, second in found
        if author in members and author != me.address and members[author].standing is not Standing.EXCLUDED
    ]


def _join(state: State, me: Me) -> Join:
    tip = me.link(state, -1) if me.role == VERIFIER else ZERO
    return Join(me.role, me.stake, Count(me.speed), tip, me.endpoint, me.post)


def _present_oneself(state: State, member: Member, me: Me, results: Results, now: Millis) -> Iterator[Action]:
    """Announce a new endpoint, or that one is back and ready: once a round, and once for each time away.

    (SPEC.md 9.2)
    """
    is_away = member.standing is Standing.AWAY
    if is_away and not is_ready(state, results):
        return
    announcement = Announce(state.newest, Count(member.lapses), me.endpoint)
    place = (me.address, announcement.round, announcement.slot, head_of(state, announcement.round))
    is_new = is_away or member.endpoint != me.endpoint
    if is_new and place not in state.said and can_return(state, member, now):
        yield Say(announcement)


def _train(state: State, me: Me, results: Results) -> Iterator[Action]:
    """Run F for the open round and commit to it; deny that another in one's crew waits for oneself."""
    if state.stage is not Stage.RUNNING:
        return
    current = state.current
    if (
        current.phase is not Phase.COMMIT
        or me.address not in current.assignments
        or me.address in current.commits
    ):
        return
    work = results.done.get(RunRound(current.number, me.address))
    if isinstance(work, Stuck):
        if me.address not in current.stuck:
            yield Say(work)
        return
    if work is None:
        blamed_by = [member for member, partner in current.stuck.items() if partner == me.address]
        if blamed_by and me.address not in current.stuck:
            yield Say(Stuck(current.number, blamed_by[0]))
            return
        start = FetchState(work_begins(state, current.number))
        if start in results.done:
            yield RunRound(current.number, me.address)
        elif start.number < state.deciding.number:  # else one catches up to it
            yield start
        return
    if work.failed:
        return
    salts = me.salts(state.run, current.number, len(work.digests))
    leaves = audits.salted_root(state.run, current.number, work.digests, salts)
    post = current.assignments[me.address].post
    yield Say(
        Commit(
            current.number, current.start.digest, leaves, work.contribution, work.norm, ZERO, post, work.shared
        )
    )  # fmt: skip


def _betrayed(state: State, me: Me, results: Results) -> Iterator[Action]:
    """Show that a neighbour in a crew committed to something else than its receipt says. (SPEC.md 4.17)"""
    for worked in state.recent:
        work = results.work(worked.number, me.address)
        for receipt in () if work is None or worked.phase is Phase.COMMIT else work.receipts:
            said = open_statement(receipt)
            commit = worked.commits.get(said.sender)
            standing = state.members[said.sender].standing
            if commit is None or standing is Standing.EXCLUDED or not betrays(state.manifest, said, commit):
                continue
            read = ReadStatement(said.sender, worked.number, Commit.at())
            yield Say(Contradiction(receipt, results.done[read])) if read in results.done else read


def _run(state: State, results: Results, number: Round, worker: Address) -> Iterator[Action]:
    """Ask for the start state first, if it is not here, then for the round."""
    start = FetchState(work_begins(state, number))
    yield RunRound(number, worker) if start in results.done else start


def _exchange(state: State, me: Me, results: Results, now: Millis) -> Iterator[Action]:
    """Fetch contributions, attest, compute and sign the next state; end on the run's last state. (SPEC.md 9.3)"""
    for worked in state.recent:
        if me.address not in worked.members:
            continue
        for worker in sorted(worked.commits.keys() - {me.address}):
            shown = results.done.get(FetchContribution(worked.number, worker))
            if isinstance(shown, Spoiled) and (worked.number, worker) not in state.convicted:
                yield Say(shown)
        if worked.phase is Phase.ATTEST and me.address not in worked.attests:
            yield from _attest(state, worked, results, now)
        if worked.phase in (Phase.SEAL, Phase.SEALED) and me.address not in worked.seals:
            yield from _seal(state, worked, results)
    if state.stage is Stage.DRAINING and state.rounds and state.current.sealed is not None:
        yield FetchState(Round(len(state.rounds)))


def looks_at(state: State, me: Me) -> Millis | None:
    """Return the time at which a peer that waits for bytes must look again, whatever comes; None where it need not."""
    if state.stage is not Stage.RUNNING or state.deciding.phase is not Phase.ATTEST:
        return None
    is_due = me.address in state.deciding.members and me.address not in state.deciding.attests
    return hurry_begins(state, state.deciding) if is_due else None


def _attest(state: State, worked: RoundState, results: Results, now: Millis) -> Iterator[Action]:
    fetches = [FetchContribution(worked.number, worker) for worker in sorted(worked.commits)]
    missing = [fetch for fetch in fetches if fetch not in results.done]
    if now >= grace_ends(state, worked):
        missing = [fetch for fetch in missing if is_awaited(state, worked, fetch.worker)]
    if missing and now < hurry_begins(state, worked):
        yield from missing
        return
    held = tuple(fetch.worker for fetch in fetches if results.done.get(fetch) is True)
    yield Say(Attest(worked.number, held))


def _seal(state: State, worked: RoundState, results: Results) -> Iterator[Action]:
    outer = RunOuter(worked.number)
    if outer in results.done:
        yield Say(Seal(worked.number, results.done[outer]))
    else:
        yield FetchState(worked.number)
        yield from outer_step(state, worked, results)


def _open(state: State, me: Me, results: Results) -> Iterator[Action]:
    """Open one's leaves where a verdict asks for it. (SPEC.md 9.4)"""
    for worked in state.rounds:
        number = worked.number
        if not audits.must_open(state, number, me.address):
            continue
        work = results.work(number, me.address)
        if work is None:
            yield from _run(state, results, number, me.address)
        else:
            salts = me.salts(state.run, number, len(work.digests))
            yield Say(Opening(number, work.digests, salts, work.taken))


def _verify(state: State, me: Me, results: Results) -> Iterator[Action]:
    """Audit what the beacon and the own chain draw, blindly; then reveal."""
    for session in state.sessions.values():
        if me.address not in session.verifiers:
            continue
        if session.watch is Watch.VERDICT and me.address not in session.finished:
            yield from _audit(state, session, me, results)
        if session.watch in (Watch.REVEAL, Watch.DONE):
            yield from _reveal(state, session, me, results)


def duties(state: State, session: Session, me: Me) -> list[Duty]:
    """Return the audits of a session that are this verifier's: drawn by its own link, or given to it in public."""
    mine = {duty for duty in session.public if duty.verifier == me.address}
    worked = state.rounds[session.number] if session.number < len(state.rounds) else None
    if session.has_links and worked is not None:
        link, rate = me.link(state, session.number), session.rates[me.address]
        drawn = [each for each in works(state, worked) if is_private_duty(session.beacon, link, each, rate)]
        mine |= {Duty(session.number, worker, me.address) for worker in drawn}
    mine = {duty for duty in mine if not is_convicted(state, duty.work, duty.worker)}
    return sorted(mine, key=lambda duty: (duty.work, duty.worker))


def _audit(state: State, session: Session, me: Me, results: Results) -> Iterator[Action]:
    pending = False
    for duty in duties(state, session, me):
        if (me.address, duty.work, duty.worker) in session.verdicts:
            continue
        pending = True
        reveal = _reveal_of(state, session, me, results, duty.work, duty.worker)
        if reveal is None:
            yield from _run(state, results, duty.work, duty.worker)
        else:
            blind = blind_of(state.run, me.address, session.number, reveal)
            yield Say(Verdict(session.number, duty.work, duty.worker, blind))
    if not pending:
        yield Say(Finished(session.number))


def _reveal_of(
    state: State, session: Session, me: Me, results: Results, number: Round, worker: Address
) -> Reveal | None:
    work = results.work(number, worker)
    if work is None:
        return None
    salt = me.blind_salt(state.run, session.number, number, worker)
    return Reveal(session.number, number, worker, work.digests, work.contributions, salt)


def _reveal(state: State, session: Session, me: Me, results: Results) -> Iterator[Action]:
    mine = (key for key in session.verdicts if key[0] == me.address and key not in session.reveals)
    for _, number, worker in sorted(mine):
        reveal = _reveal_of(state, session, me, results, number, worker)
        if reveal is None:
            yield from _run(state, results, number, worker)
        else:
            yield Say(reveal)
    member = state.members[me.address]
    if session.has_links and me.address not in session.links and member.links <= session.number:
        yield Say(Link(session.number, me.link(state, session.number)))


def _serve(state: State, me: Me, results: Results) -> Iterator[Action]:
    """Show the chunks that others have paid to see of what this peer attested. (SPEC.md 4.13)"""
    for demand in state.demands:
        worked = state.rounds[demand.round]
        if demand.is_met or demand.worker not in worked.attests.get(me.address, ()):
            continue
        contribution = worked.commits[demand.worker].contribution
        action = OpenChunk(demand.number, contribution, demand.seed)
        yield Say(results.done[action]) if action in results.done else action


def _contest(state: State, me: Me, results: Results) -> Iterator[Action]:
    """Make the moves that disputes wait for, and contest a wrongly sealed state. (SPEC.md 9.5)"""
    for dispute in state.open_disputes():
        if disputes.mover(dispute) == me.address:
            yield from moves_in(state, dispute, results)
    for worked in state.recent:
        own = worked.seals.get(me.address)
        if own is None or len(worked.backing) < 2:
            continue  # nobody sealed anything else
        contested = {
            (d.round, d.accused)
            for d in state.disputes
            if d.place is Place.OUTER and (d.ruling in (None, Ruling.GUILTY) or d.challenger == me.address)
        }
        for accused, ref in sorted(worked.seals.items()):
            if ref.digest == own.digest or (worked.number, accused) in contested:
                continue
            if disputes.can_pay_bond(state, state.members[me.address]):
                yield Say(ChallengeSeal(worked.number, accused))


def needed_rounds(state: State) -> set[Round]:
    """Return the rounds whose start state and contributions a member must keep: those about which it may be asked, and
    the last ones, for who catches up.

    A link that is still hidden may bring an audit of its session's round. (SPEC.md 9.3)
    """
    newest = len(state.rounds)
    first = state.deciding.number + 1 - KEPT_ROUNDS if state.rounds else 0
    needed = {Round(number) for number in range(max(0, first), newest + 1)}
    needed |= {demand.round for demand in state.demands if not demand.is_met}
    needed |= audits.rounds_owed(state)
    return needed | {number for number, _ in [*open_questions(state), *pending(state)]}


def blobs_of_round(state: State, number: Round) -> tuple[BundleRef, ...]:
    """Return what a round reads: the states that its work and its outer step start from, the contributions committed in
    it, and those that it takes back."""
    if number == len(state.rounds):
        return (state_before(state, number),)
    worked = state.rounds[number]
    taken_back = (
        state.rounds[n].commits[member]
        for n, lead in worked.subtracts
        for member in state.rounds[n].crews[lead]
    )
    commits = [*worked.commits.values(), *taken_back]
    return worked.start, state_before(state, number), *(commit.contribution for commit in commits)
