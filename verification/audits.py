"""Audits: private duty by hash-chain links, blind verdicts, one opening for all, reveals. (SPEC.md 5)"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import product

from verification import disputes, merkle, rulings
from verification.causes import Cause, Reason
from verification.crews import items_of, known_items, made_by, roots_of_shared, taken_by
from verification.debts import LinkDebt, OpeningDebt, RevealDebt
from verification.digest import integer, tagged
from verification.effects import Effect
from verification.errors import BadEvidence, Refused
from verification.judgement import is_duty, judge
from verification.library import Now
from verification.manifest import Manifest, Place
from verification.membership import active, get_member, mark_away, settle_debt, suspend
from verification.rounds import get_round, works
from verification.sampling import (
    SLACK,
    draw_verifier,
    duty_rates,
    earlier_link,
    leaf_steps,
    limited_speeds,
    time_for,
)
from verification.signed import Said
from verification.state import Audit, AuditKey, Duty, Member, Session, Standing, State, Watch, is_convicted
from verification.statements import VERIFIER, Commit, Finished, Link, Opening, Reveal, Verdict
from verification.units import MILLION, PPM, Address, Digest, Millis, Round


def blind_of(run: Digest, verifier: Address, session: Round, body: Reveal) -> Digest:
    """Return the blind commitment that a reveal must open: bound to the verifier's key. (SPEC.md 5.5)"""
    place = (integer(session), integer(body.work), body.worker)
    found = (*body.contributions, *body.digests)
    return tagged("blind", run, verifier, *place, integer(len(body.contributions)), body.salt, *found)


def salted_root(run: Digest, number: Round, digests: tuple[Digest, ...], salts: tuple[Digest, ...]) -> Digest:
    """Return the root over a worker's salted leaves. (SPEC.md 4.3)"""
    pairs = zip(digests, salts, strict=True)
    return merkle.root("leaves", [tagged("leaf", run, integer(number), salt, value) for value, salt in pairs])


def open_session(state: State, number: Round, now: Millis) -> None:
    """Draw a round's audits; those to be drawn again go to verifiers who never had them. (SPEC.md 5.4)"""
    members = active(state, VERIFIER, number)
    verifiers = [member.address for member in members]
    public = set()
    for work, worker in sorted(state.redraws):
        had = state.rounds[work].audited.get(worker, set())
        verifier = draw_verifier(state.beacon, work, worker, [v for v in verifiers if v not in had])
        if verifier is not None:
            public.add(Duty(work, worker, verifier))
            state.redraws.remove((work, worker))
    rates = duty_rates(state.manifest, members)
    deadline = Millis(now + _verdict_window(state, number, members, rates, public))
    # Links are for rounds: who may be drawn while a run drains is up to who comes and goes, and so is how often.
    has_links = number < state.manifest.work.rounds
    state.sessions[number] = Session(number, state.beacon, deadline, rates, frozenset(public), has_links)


def _verdict_window(
    state: State, number: Round, members: Sequence[Member], rates: Mapping[Address, PPM], public: set[Duty]
) -> int:
    """Return the window, lengthened where a verifier's expected audits over its speed ask for more. (SPEC.md 4.10)"""
    worked = state.rounds[number] if number < len(state.rounds) else None
    whole = sum(worked.assignments[worker].steps for worker in works(state, worked)) if worked else 0
    windows, speeds = [int(state.manifest.windows.verdict)], limited_speeds(state.manifest, members)
    named = Counter[Address]()
    for duty in public:
        named[duty.verifier] += state.rounds[duty.work].assignments[duty.worker].steps
    for verifier, rate in rates.items():
        expected = named[verifier] + -(-rate * whole // MILLION)
        windows.append(SLACK * time_for(expected, speeds[verifier]))
    return max(windows)


def get_session(state: State, number: Round) -> Session:
    """Return a session that has been drawn; raises Refused."""
    session = state.sessions.get(number)
    if session is None:
        raise Refused(f"no audits of session {number} have been drawn")
    return session


def process_verdict(state: State, said: Said[Verdict], now: Now) -> list[Effect]:
    """Take a blind verdict; whether it was due shows when the link is out. (SPEC.md 5.5)

    Raises Refused when the session takes none from the sender, and where there is nothing to judge.
    """
    sender, body = said.sender, said.body
    session = get_session(state, body.round)
    if session.watch is not Watch.VERDICT or sender in session.finished:
        raise Refused("the session takes no verdict from the sender now")
    if sender not in session.verifiers:
        raise Refused("the sender is no verifier of this session")
    if body.worker not in works(state, get_round(state, body.work)):
        raise Refused("the worker committed nothing in that round, or not all of its crew to the same")
    public = Duty(body.work, body.worker, sender) in session.public
    if body.work != body.round and not public:
        raise Refused("only a named verifier audits an earlier round")
    if is_convicted(state, body.work, body.worker):
        raise Refused("the worker is convicted of that round: nothing is left to find")
    if (sender, body.work, body.worker) in session.verdicts:
        raise Refused("the sender has given this verdict already")
    session.verdicts[sender, body.work, body.worker] = body.blind
    return []


def process_finished(state: State, said: Said[Finished], now: Now) -> list[Effect]:
    """End a verifier's verdicts in a session; raises Refused when it waits for none of them. (SPEC.md 5.6)"""
    sender, session = said.sender, get_session(state, said.body.round)
    if session.watch is not Watch.VERDICT or sender not in session.verifiers or sender in session.finished:
        raise Refused("the session does not wait for the sender")
    session.finished.add(sender)
    return []


def process_opening(state: State, said: Said[Opening], now: Now) -> list[Effect]:
    """Take a worker's leaves, checked against its commitment; late ones end a suspension. (SPEC.md 5.7)

    Raises Refused when nothing asks the sender to open, BadEvidence for leaves that are not those it committed to.
    """
    sender, body = said.sender, said.body
    worked = get_round(state, body.round)
    commit = worked.commits.get(sender)
    if commit is None or sender in worked.openings:
        raise Refused("the sender has nothing to open in this round")
    if sender not in worked.asked:
        raise Refused("no verdict about this round asks for an opening yet")
    require_opened(state.manifest, state.run, commit, body, worked.assignments[sender].steps)
    values = (*body.digests, commit.contribution.digest)
    failure = disputes.failure_in(state, values, (Place.PROLOGUE, Place.STEP), commit.post, now.library)
    worked.openings[sender] = body
    if failure is not None:
        worked.failures[sender] = failure
    effects = settle_debt(state, get_member(state, sender), OpeningDebt(body.round))
    lead = worked.lead(sender)
    if all(member in worked.openings for member in worked.crews[lead]):
        for number, key in sorted(state.waiting.pop((body.round, lead), [])):
            effects += judge(state, state.sessions[number], key, now.time)
    return effects


def require_opened(manifest: Manifest, run: Digest, commit: Commit, opening: Opening, steps: int) -> None:
    """Raise BadEvidence unless an opening of a round of so many steps leads to its commitment. (SPEC.md 4.17, 5.7)"""
    cut = None if commit.post is None else manifest.cuts[commit.post.cut]
    shard = 0 if commit.post is None else int(commit.post.shard)
    count = len(leaf_steps(steps, manifest.work.leaf_every) if cut is None else made_by(cut, shard, steps))
    taken = 0 if cut is None else len(taken_by(cut, shard, steps))
    if len(opening.digests) != count or len(opening.salts) != count or len(opening.taken) != taken:
        raise BadEvidence("the opening does not have the leaves that the assignment gives")
    if salted_root(run, commit.round, opening.digests, opening.salts) != commit.leaves:
        raise BadEvidence("the opening does not lead to the committed root")
    if cut is not None and commit.post is not None:
        known = known_items(cut, commit.post, steps, opening)
        if roots_of_shared(cut, shard, steps, known) != commit.shared:
            raise BadEvidence("the opening does not lead to what the sender and its neighbours signed")


def process_reveal(state: State, said: Said[Reveal], now: Now) -> list[Effect]:
    """Take a verifier's opened verdict; a late one only ends its suspension. (SPEC.md 5.8)

    Raises Refused when the session waits for none, BadEvidence for one that does not open the blind verdict.
    """
    sender, body = said.sender, said.body
    session = get_session(state, body.round)
    key = (sender, body.work, body.worker)
    if session.verdicts.get(key) is None or key in session.reveals:
        raise Refused("the sender has no verdict to reveal here")
    if session.watch not in (Watch.REVEAL, Watch.DONE):
        raise Refused("verdicts are revealed after the workers have opened")
    worked = state.rounds[body.work]
    steps, post = worked.assignments[body.worker].steps, worked.assignments[body.worker].post
    cut = None if post is None else state.manifest.cuts[post.cut]
    leaves = leaf_steps(steps, state.manifest.work.leaf_every) if cut is None else items_of(cut, steps)
    if (len(body.digests), len(body.contributions)) != (len(leaves), len(worked.crews[body.worker])):
        raise BadEvidence("the reveal does not have the leaves that the assignment gives")
    if blind_of(state.run, sender, body.round, body) != session.verdicts[key]:
        raise BadEvidence("the reveal does not open the verdict")
    session.reveals[key] = body
    if session.watch is Watch.DONE:
        return settle_debt(state, get_member(state, sender), RevealDebt(body.work, body.worker))
    return []


def process_link(state: State, said: Said[Link], now: Now) -> list[Effect]:
    """Take a verifier's link; it shows which duties were its own, and every link before it. (SPEC.md 5.2)

    Raises Refused when the session waits for none, BadEvidence for one that is not on the sender's chain.
    """
    sender, body = said.sender, said.body
    session = get_session(state, body.round)
    if not session.has_links or sender not in session.verifiers or sender in session.links:
        raise Refused("the session expects no link from the sender")
    if session.watch not in (Watch.REVEAL, Watch.DONE):
        raise Refused("links are shown after the verdict deadline")
    member = get_member(state, sender)
    number = body.round + 1
    if number <= member.links or earlier_link(body.link, number - member.links) != member.tip:
        raise BadEvidence("the link is not on the sender's chain")
    member.tip, member.links = body.link, number
    state.fresh_links.append(body.link)
    effects: list[Effect] = []
    for earlier in sorted(state.sessions):
        missing = state.sessions[earlier]
        if earlier <= body.round and sender in missing.verifiers and sender not in missing.links:
            missing.links[sender] = earlier_link(body.link, body.round - earlier)
            effects += settle_debt(state, member, LinkDebt(earlier))
            if missing.watch is Watch.DONE and member.standing is not Standing.EXCLUDED:
                for key in sorted(_duties(state, missing, {sender}) - missing.audits.keys()):
                    effects += judge(state, missing, key, now.time)
    return effects


def must_open(state: State, work: Round, worker: Address) -> bool:
    """Return whether a verdict asks a worker for its leaves, and it has neither opened nor been convicted."""
    worked = state.rounds[work]
    return worker in worked.asked and worker not in worked.openings and (work, worker) not in state.convicted


def end_verdicts(state: State, session: Session, now: Millis) -> list[Effect]:
    """Close the blind phase: workers with a verdict about them must open."""
    for _, work, worker in session.verdicts:
        state.rounds[work].asked.update(state.rounds[work].crews[worker])
    session.watch = Watch.OPENING
    session.deadline = Millis(now + state.manifest.windows.opening)
    return []


def _asked_in(state: State, session: Session) -> list[tuple[Round, Address]]:
    """Return who must open because of a session's verdicts: of a crew all."""
    found = {
        (work, member) for _, work, lead in session.verdicts for member in state.rounds[work].crews[lead]
    }
    return sorted(found)


def end_openings(state: State, session: Session, now: Millis) -> list[Effect]:
    """Close the opening phase: who did not open is suspended and may still do so. (SPEC.md 5.7)"""
    effects: list[Effect] = []
    for number, worker in _asked_in(state, session):
        if must_open(state, number, worker):
            effects += suspend(state, state.members[worker], OpeningDebt(number), now)
    session.watch = Watch.REVEAL
    session.deadline = Millis(now + state.manifest.windows.reveal)
    return effects


def end_reveals(state: State, session: Session, now: Millis) -> list[Effect]:
    """Judge every audit of the session: duties skipped or invented show now. (SPEC.md 5.9)

    Who gave no verdict and shows no link owes nothing: it took no part, and is paid for none. With fewer verifiers than
    the run promises, whoever was not audited is drawn again in public. (SPEC.md 5.4, 5.9)
    """
    session.watch = Watch.DONE
    effects: list[Effect] = []
    spoke = {verifier for verifier, _, _ in session.verdicts}
    hidden = session.verifiers_without_link()
    mute = {*hidden} - spoke
    for verifier in hidden:
        if verifier in spoke:
            effects += suspend(state, state.members[verifier], LinkDebt(session.number), now)
    for key in sorted(session.verdicts.keys() | _duties(state, session, session.verifiers)):
        effects += judge(state, session, key, now)
    for verifier in sorted(mute):
        del session.rates[verifier]
    if len(session.rates) < state.manifest.work.min_verifiers and session.number < len(state.rounds):
        heard = {Audit.PASSED, Audit.MISMATCH, Audit.WAITING}
        audited = {key[1:] for key, outcome in session.audits.items() if outcome in heard}
        for worker in works(state, state.rounds[session.number]):
            if (session.number, worker) not in audited:
                rulings.redraw(state, session.number, worker)
    return [*effects, *_count_idle(state, session, mute)]


def _count_idle(state: State, session: Session, mute: Collection[Address]) -> list[Effect]:
    """Set away who left duties undone in too many sessions in a row: it slows down everyone. (SPEC.md 3.8)"""
    effects: list[Effect] = []
    lost = (key for key, outcome in session.audits.items() if outcome is Audit.LOST)
    undone = {key[0] for key in lost if key not in session.verdicts}.union(mute)
    for verifier in sorted({*session.verifiers, *mute}):
        member = state.members[verifier]
        member.idle = member.idle + 1 if verifier in undone else 0
        if member.idle >= state.manifest.work.miss_limit and member.standing is Standing.ACTIVE:
            member.idle = 0
            effects += mark_away(state, member, Reason(Cause.IDLE, count=state.manifest.work.miss_limit))
    return effects


def can_judge_queued(state: State) -> bool:
    """An accusation that waits for a bond has one, or is worth nothing any more."""
    return _first_queued(state) is not None


def judge_queued(state: State) -> list[Effect]:
    """It is judged again. (SPEC.md 5.9, 6.2)"""
    queued = _first_queued(state)
    assert queued is not None
    state.queued.remove(queued)
    number, key = queued
    return judge(state, state.sessions[number], key, state.now)


def _first_queued(state: State) -> tuple[Round, AuditKey] | None:
    for number, key in sorted(state.queued):
        member = state.members[key[0]]
        decided = is_convicted(state, *key[1:]) or member.standing is Standing.EXCLUDED
        if decided or disputes.can_pay_bond(state, member):
            return number, key
    return None


def oldest_session(state: State) -> Session | None:
    """Return the first session that is not done: sessions end in order, so the open ones are the newest.

    In order, so that a link never shows before the verdicts of earlier ones are in.
    """
    oldest = None
    for session in reversed(state.sessions.values()):
        if session.watch is Watch.DONE:
            break
        oldest = session
    return oldest


def are_judged_before(state: State, number: Round) -> bool:
    """Return whether nothing about a round before `number` waits for somebody who is in time. (SPEC.md 4.1)"""
    session = oldest_session(state)
    if session is not None and session.number < number:
        return False
    if any(
        dispute.round < number and not disputes.is_overdue(state, dispute)
        for dispute in state.open_disputes()
    ):
        return False
    queued = (key for _, key in state.queued if key[1] < number)
    return not any(state.members[verifier].standing is Standing.ACTIVE for verifier, _, _ in queued)


def was_passed(state: State, work: Round, worker: Address) -> bool:
    """Return whether some audit of a worker's round found it right."""
    key = (work, worker)
    return any(
        outcome is Audit.PASSED
        for session in state.sessions.values()
        for (_, *audited), outcome in session.audits.items()
        if tuple(audited) == key
    )


def end_phase(state: State, session: Session, now: Millis) -> list[Effect]:
    """End the phase in which a session stands. (SPEC.md 5.6)"""
    ends = {Watch.VERDICT: end_verdicts, Watch.OPENING: end_openings, Watch.REVEAL: end_reveals}
    return ends[session.watch](state, session, now)


def is_session_answered(state: State, session: Session) -> bool:
    """Return whether everyone the session waits for has spoken, so that it may move before its deadline."""
    if session.watch is Watch.VERDICT:
        return len(session.finished) == len(session.rates)
    if session.watch is Watch.OPENING:
        return not any(must_open(state, work, worker) for work, worker in _asked_in(state, session))
    is_revealed = len(session.reveals) == len(session.verdicts)
    return session.watch is Watch.REVEAL and is_revealed and not session.verifiers_without_link()


def _duties(state: State, session: Session, verifiers: Collection[Address]) -> set[AuditKey]:
    """Return these verifiers' audits that were due, as far as links are out; those given by name are due without."""
    keys = {(duty.verifier, duty.work, duty.worker) for duty in session.public if duty.verifier in verifiers}
    worked = works(state, state.rounds[session.number]) if session.number < len(state.rounds) else []
    pairs = product((verifier for verifier in verifiers if verifier in session.links), worked)
    drawn = ((verifier, session.number, worker) for verifier, worker in pairs)
    return keys | {key for key in drawn if is_duty(state, session, key)}


def rounds_owed(state: State) -> set[Round]:
    """Return the rounds that suspended members must compute to give what they owe: leaves, or reveals. (SPEC.md 9.3)"""
    rounds = set()
    for debt in (debt for address in state.debtors for debt in state.members[address].owes):
        match debt:
            case OpeningDebt(number) | RevealDebt(work=number):
                rounds.add(number)
    return rounds
