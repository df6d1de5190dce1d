"""Frozen attacks on every kind of statement, each at the place of one run's log where the honest one was admitted.

`python -m tests.make_vectors` writes them. A vector says after how many entries of `log.json` its bytes arrive, when,
and what the law must say: nothing, the class and words of a refusal that changes nothing, or "guilty".
"""

import dataclasses
import json
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from simulator.cast import Actor, Verifier, Worker
from simulator.memory import Clock, MemoryLedger
from simulator.toy import BrokenEngine, EndingEngine, inner, minimal
from simulator.toy_crew import with_crews
from simulator.world import World
from trainer.rounds.cheats import conduct_named
from verification import codec
from verification.adversaries import (
    Act,
    Behaviour,
    CommitFailure,
    Equivocate,
    FalseTotals,
    Mute,
    TwoFaced,
    View,
    WrongBytes,
    WrongSeal,
)
from verification.digest import tagged
from verification.effects import Slashed
from verification.honest.actions import Say
from verification.ledger.log import Genesis
from verification.manifest import Post
from verification.placed import OfRun
from verification.signed import Statement, make_statement, open_statement, sign_statement
from verification.state import Phase, Stage, State, Watch
from verification.statements import (
    KINDS,
    Announce,
    Attest,
    ChallengeSeal,
    Commit,
    Demand,
    Finished,
    Join,
    Opening,
    Reveal,
    Seal,
    Trace,
    Verdict,
)
from verification.units import MILLION, Address, Amount, Count, Millis, Round

FOLDER = Path(__file__).parent / "vectors" / "law"
CREWS = FOLDER / "crews"
"""Of another run, in which crews work."""
OF_CREWS = ("Join", "Commit", "Receipt", "Stuck", "Opening", "Reveal", "Contradiction")
"""What members of crews say, and others of them."""
WRONG = tagged("wrong")
STRANGER = b"\x07" * 32
Attack = tuple[str, str, str, Any]
"""(attack, expected class, words of the reason, changed body or bytes)"""


class Ask(Behaviour):
    """Demands a chunk of round 1 and announces itself anew."""

    def __init__(self, worker: Address) -> None:
        """`worker`'s contribution."""
        super().__init__()
        self._body = Demand(Round(1), worker)

    def act(self, view: View, wanted: list[Act]) -> list[Act]:
        """Ask once."""
        rounds = view.state.rounds
        if view.state.demands or len(rounds) < 2 or self._body.worker not in rounds[1].included:
            return wanted
        self.faults += 1
        return [*wanted, Say(self._body), Say(Announce(view.state.newest, Count(0), "/toy/elsewhere"))]


class Spoil(WrongBytes):
    """Commits to another norm than its contribution has, in round 1."""

    def result(self, view: View, action: Any, compute: Callable[[], Any]) -> Any:
        """Spoil one round only."""
        return super().result(view, action, compute) if getattr(action, "number", None) == 1 else compute()

    def spoil(self, view: View, work: Any) -> Any:
        """Lie about the norm."""
        return dataclasses.replace(work, norm=Count(work.norm + 1))


WIDE = 20
"""So wide is the inner step: its product has 80 terms, and two rows."""

OPERATORS = [node.operator for node in inner(1, 2, wide=WIDE).nodes]
PRODUCT, SELECT = OPERATORS.index("product"), OPERATORS.index("select")
"""Places of nodes in it."""


def played() -> World:
    """Return a run in which every kind of statement is said."""
    broken = Worker("broken")
    broken.engine = BrokenEngine("inner", 70)
    adder = Worker("adder", FalseTotals())
    adder.engine = BrokenEngine("inner", PRODUCT)
    ender = Worker("ender", CommitFailure())
    ender.engine = EndingEngine("inner", SELECT)
    target = Worker("w0")
    cast: list[Actor] = [
        target, Worker("w1"), Worker("w2"), Verifier("v0"), Verifier("v1"), broken,
        Worker("liar", conduct=conduct_named("skip-steps", 1)), Worker("spoiler", Spoil()),
        Worker("twice", Equivocate(Commit, 2)), Verifier("sealer", WrongSeal(), Mute(ChallengeSeal)),
        Verifier("ask", Ask(target.address)), adder, ender,
        Worker("sleepy", Mute(Commit, Attest, Seal)), Verifier("drowsy", Mute(Verdict, Finished)),
    ]  # fmt: skip
    manifest = minimal(
        chain=70,
        wide=WIDE,
        audit_rate=MILLION,
        rounds=6,
        slots=10,
        max_verifiers=6,
        min_workers=10,
        min_verifiers=3,
        miss_limit=9,
    )
    world = World(manifest, cast, random.Random(7))
    world.run()
    return world


def played_by_crews() -> World:
    """Return a run in which members of crews say all that they may."""
    denier = Worker("denier", post=Post(Count(0), Count(0)))
    denier.denies = True
    cast: list[Actor] = [
        denier,
        Worker("sleepy", TwoFaced(), post=Post(Count(0), Count(1))), Worker("w1"), Verifier("v0"), Verifier("v1"),
        *(Worker(f"{name}{shard}", post=Post(Count(0), Count(shard)), speed=50) for name in "ab" for shard in (0, 1)),
    ]  # fmt: skip
    manifest = with_crews(audit_rate=MILLION, rounds=4, slots=6, min_workers=4, min_verifiers=2)
    world = World(manifest, cast, random.Random(3))
    world.run()
    return world


def replay(log: list[dict[str, Any]]) -> Iterator[MemoryLedger]:
    """Yield the one ledger after one entry of a log, two, and so on."""
    genesis = codec.decode(Genesis, bytes.fromhex(log[0]["data"]))
    ledger = MemoryLedger.found(genesis, Clock(Millis(log[0]["at"])), is_checked=False)
    yield ledger
    for line in log[1:]:
        before, ledger.clock.now = len(ledger.log), Millis(line["at"])
        if line["kind"] == "tick":
            ledger.tick()
        else:
            ledger.submit(bytes.fromhex(line["data"]))
        assert len(ledger.log) == before + 1, "the frozen log is not what the law makes of it"
        yield ledger


def closed(kind: str, body: Any) -> Callable[[State], bool] | None:
    """Return when it is too late to say a body for the first time; None for kinds that no window bounds."""
    number = getattr(body, "round", 0)
    late: dict[str, Callable[[State], bool]] = {
        "Join": lambda state: state.stage is Stage.DRAINING,
        "Commit": lambda state: state.rounds[number].phase is not Phase.COMMIT,
        "Attest": lambda state: state.rounds[number].phase in (Phase.SEAL, Phase.SEALED),
        "Seal": lambda state: not state.is_recent(number),
        "ChallengeSeal": lambda state: not state.is_recent(number),
        "Verdict": lambda state: state.sessions[number].watch is not Watch.VERDICT,
        "Finished": lambda state: state.sessions[number].watch is not Watch.VERDICT,
        "Demand": lambda state: not state.is_recent(number) and state.sessions[number].watch is Watch.DONE,
        "Chunk": lambda state: state.demands[body.demand].is_met,
        "Spoiled": lambda state: (number, body.worker) in state.convicted,
        "Announce": lambda state: state.newest > number,
        "Stuck": lambda state: state.rounds[number].phase is not Phase.COMMIT,
    }
    return late.get(kind)


LATE_SENDERS = {
    "Commit": "sleepy", "Attest": "sleepy", "Seal": "sleepy", "Verdict": "drowsy", "Finished": "drowsy", "Demand": "w1",
    "Chunk": "v0", "Spoiled": "w1", "Stuck": "w1", "ChallengeSeal": "sleepy", "Join": "stranger", "Announce": "w1",
}  # fmt: skip


def changes(body: Any) -> Iterator[Attack]:
    """Yield attacks on a body itself; those that only some kinds have, where they have the fields."""
    kind = type(body)
    for field in dataclasses.fields(kind):
        value = getattr(body, field.name)
        if isinstance(value, int) and not isinstance(value, bool):
            yield (
                f"overflowing-{field.name}",
                "Malformed",
                "",
                dataclasses.replace(body, **{field.name: 2**63}),
            )
    lists = {
        "entries": "guilty",
        "outputs": "guilty",
        "digests": "BadEvidence",
        "salts": "BadEvidence",
        "taken": "BadEvidence",
        "contributions": "BadEvidence",
        "inputs": "BadEvidence",
    }
    for name, expect in lists.items():
        value = getattr(body, name, None)
        if not value:
            continue
        yield f"empty-{name}", expect, "", dataclasses.replace(body, **{name: ()})
        yield (
            f"duplicated-leaf-in-{name}",
            expect,
            "",
            dataclasses.replace(body, **{name: (*value, value[-1])}),
        )
        if isinstance(value[0], bytes) and (kind, name) != (
            Trace,
            "entries",
        ):  # these fix what later lists fold to
            swapped = (*value[:-1], WRONG)
            yield f"{name}-that-do-not-fold", expect, "", dataclasses.replace(body, **{name: swapped})
        elif not isinstance(value[0], bytes):
            for attack, part in paths(value[-1]):
                yield attack, "BadEvidence", "", dataclasses.replace(body, **{name: (*value[:-1], part)})
    for attack, part in paths(body):
        yield attack, "BadEvidence", "", part
    yield from special(body)
    yield from special_to_moves(body)


def paths(part: Any) -> Iterator[tuple[str, Any]]:
    """Yield attacks on the paths in a part."""
    for name in ("path", "row"):
        value = getattr(part, name, None)
        if value:
            yield f"truncated-{name}", dataclasses.replace(part, **{name: value[:-1]})
            yield f"{name}-too-long", dataclasses.replace(part, **{name: (*value, WRONG)})
            yield f"leaf-passed-as-node-in-{name}", dataclasses.replace(part, **{name: (WRONG, *value[1:])})


def special(body: Any) -> Iterator[Attack]:
    """Yield attacks that belong to one kind."""
    new: Callable[..., Any] = lambda **fields: dataclasses.replace(body, **fields)  # noqa: E731
    match type(body).__name__:
        case "Join":
            yield "no-such-role", "Malformed", "", new_unchecked(body, role="judge")
            yield "stake-below-the-least", "Refused", "stakes at least", new(stake=Amount(1))
            if body.post is not None:
                yield "no-such-shard", "Refused", "no such shard", new(post=Post(Count(0), Count(9)))
                yield "no-such-cut", "Refused", "no such shard", new(post=Post(Count(9), Count(0)))
            yield "stake-above-the-balance", "Refused", "the account holds", new(stake=Amount(2**62))
        case "Commit":
            yield "another-start-state", "Refused", "another start state", new(start=WRONG)
            if body.post is not None:
                yield "no-post", "Refused", "another post", new(post=None)
                yield "no-roots", "Refused", "another post", new(shared=())
                yield "a-root-too-many", "Refused", "another post", new(shared=(*body.shared, WRONG))
        case "Receipt":
            yield "of-another-root", "Refused", "is for a neighbour", new(root=WRONG)
        case "Stuck":
            yield "for-want-of-a-stranger", "Refused", "not of one crew", new(partner=Address(bytes(20)))
            yield "in-a-round-not-opened", "Refused", "", new(round=Round(99))
        case "Attest":
            yield "one-worker-twice", "Refused", "names a worker", new(held=(body.held[0], body.held[0]))
            yield "who-did-not-commit", "Refused", "names a worker", new(held=(Address(bytes(20)),))
        case "Seal":
            yield "round-not-opened", "Refused", "", new(round=Round(99))
        case "Verdict":
            yield "an-earlier-round", "Refused", "only a named verifier", new(work=Round(0))
            yield "who-did-not-commit", "Refused", "committed nothing", new(worker=Address(bytes(20)))
        case "Opening":
            yield "another-round", "Refused", "", new(round=Round(99))
        case "Reveal":
            others = (*body.contributions[1:], WRONG)
            yield (
                "another-contribution",
                "BadEvidence",
                "does not open the verdict",
                new(contributions=others),
            )
        case "Link":
            yield "not-on-the-chain", "BadEvidence", "not on the sender's chain", new(link=WRONG)
        case "Demand":
            yield "of-nobody", "Refused", "nobody has promised", new(worker=Address(bytes(20)))
            yield "round-not-opened", "Refused", "", new(round=Round(99))
        case "Chunk":
            yield "wrong-index", "Refused", "no such chunk", new(demand=Count(9))
            yield "another-number-of-tensors", "BadEvidence", "", new(count=Count(body.count + 1))
            yield "no-tensors", "BadEvidence", "", new(count=Count(0))
            yield "no-block", "BadEvidence", "", new(block=None)
            yield "a-block-of-another-tensor", "BadEvidence", "", new(shape=(Count(7), *body.shape))
            yield "no-dtype", "BadEvidence", "", new(dtype="complex")
            for attack, part in of_block(body.block):
                yield attack, "BadEvidence", "", new(block=part)
        case "Spoiled":
            yield "other-bytes", "BadEvidence", "not the bytes", new(data=bytes(len(body.data)))
            yield "no-bytes", "BadEvidence", "not the bytes", new(data=b"")
            yield "another-size", "BadEvidence", "other bytes", new(size=Count(1))
            yield "another-address", "BadEvidence", "other bytes", new(chunks=WRONG)
            yield "who-did-not-commit", "Refused", "committed to nothing", new(worker=Address(bytes(20)))
        case "Contradiction":
            yield "the-same-twice", "Refused", "do not differ", new(second=body.first)
            yield "two-garbage", "Malformed", "", new(first=b"", second=b"")
        case "Withdraw":
            yield "before-the-end", "Refused", "stakes unlock", body


def special_to_moves(body: Any) -> Iterator[Attack]:
    """Yield attacks that belong to one kind of move in a dispute."""
    new: Callable[..., Any] = lambda **fields: dataclasses.replace(body, **fields)  # noqa: E731
    match type(body).__name__:
        case "Point":
            yield "wrong-index", "BadEvidence", "outside the list", new(index=Count(64))
            yield "another-level", "Refused", "", new(level=Count(body.level + 1))
            yield "another-dispute", "Refused", "", new(dispute=Count(999))
        case "Mismatch":
            yield "wrong-index", "BadEvidence", "no such output", new(output=Count(99))
            yield "another-digest", "BadEvidence", "", new(digest=WRONG)
        case "Evidence":
            yield "another-dispute", "Refused", "", new(dispute=Count(999))
            (first, *rest), part = body.inputs, body.inputs[0]
            (block, *others) = part.blocks
            blocks = [(attack, (made, *others)) for attack, made in of_block(block)]
            blocks += [("a-block-twice", (block, *part.blocks)), ("no-blocks", ())]
            for attack, made in blocks:
                yield attack, "BadEvidence", "", new(inputs=(dataclasses.replace(first, blocks=made), *rest))
            other = dataclasses.replace(first, value=Count(part.value + 1000))
            yield "an-input-of-another-node", "BadEvidence", "no input", new(inputs=(other, *rest))
        case "ResultList":
            yield "of-a-row-in-place-of-rows", "Refused", "no dispute waits", new(row=Count(0))
            yield "of-another-node", "Refused", "no dispute waits", new(node=Count(body.node + 1))
        case "Block":
            yield "other-bytes", "guilty", "", new(data=bytes([body.data[0] ^ 1]) + body.data[1:])
            yield "cut-short-bytes", "guilty", "", new(data=body.data[:-1])
            yield "no-bytes", "guilty", "", new(data=b"")
            yield "of-another-row", "Refused", "no dispute waits", new(row=Count(body.row + 1))
        case "TotalList":
            yield "one-total-too-many", "guilty", "", new(entries=(*body.entries, 0))
            yield "of-another-number", "Refused", "no dispute waits", new(index=Count(body.index + 1))
        case "RangeList":
            yield (
                "ranges-that-do-not-add-up",
                "guilty",
                "",
                new(entries=(*body.entries[1:], body.entries[0] + 1)),
            )
            yield "a-range-outside-the-axis", "Refused", "no dispute waits", new(high=Count(body.high + 64))
            yield "of-another-total", "Refused", "no dispute waits", new(total=Count(body.total + 1))
        case "FailedAt":
            yield "outside-the-result", "guilty", "", new(index=Count(1 << 40))
            yield "a-total-that-it-has-not", "guilty", "", new(total=Count(9), term=Count(0))
            yield "a-term-of-no-total", "guilty", "", new(term=Count(0))
            yield "a-number-that-it-may-hold", "guilty", "", new(bits=Count(0))


def of_block(block: Any) -> Iterator[tuple[str, Any]]:
    """Yield attacks on a block that was opened."""
    yield "a-block-of-another-row", dataclasses.replace(block, row=Count(block.row + 1))
    yield "a-block-of-another-place", dataclasses.replace(block, block=Count(block.block + 1))
    yield "a-block-altered", dataclasses.replace(block, data=bytes([block.data[0] ^ 1]) + block.data[1:])
    yield "a-block-cut-short", dataclasses.replace(block, data=block.data[:-1])
    yield "the-path-of-another-tree", dataclasses.replace(block, in_tensor=(*block.in_tensor, WRONG))
    yield "the-path-of-another-row", dataclasses.replace(block, in_row=(*block.in_row, WRONG))


def new_unchecked(body: Any, **fields: Any) -> Any:
    """Return a body that its own constructor would not make."""
    made = object.__new__(type(body))
    for field in dataclasses.fields(body):
        object.__setattr__(made, field.name, fields.get(field.name, getattr(body, field.name)))
    return made


def envelopes(secret: bytes, statement: Statement, data: bytes) -> Iterator[tuple[str, str, str, bytes]]:
    """Yield attacks on what stands around a body."""
    sign = lambda **fields: sign_statement(secret, dataclasses.replace(statement, **fields))  # noqa: E731
    yield "right", "", "", data
    yield "trailing-bytes", "Malformed", "", data + b"\0"
    yield "cut-short", "Malformed", "", data[:-1]
    yield "another-runs-signature", "Refused", "another chain or run", sign(run=WRONG)
    yield "another-chain-s-signature", "Refused", "another chain or run", sign(chain="other")
    yield "another-head", "Refused", "another ledger head", sign(head=WRONG)
    yield "another-slot", "Malformed", "", sign(slot="Other")


def vectors(
    world: World, kinds: Iterable[str]
) -> tuple[list[dict[str, Any]], dict[str, list[dict[str, Any]]]]:
    """Return a run's log, and the attacks by kind."""
    log = [{"at": line.at, "kind": line.kind, "data": line.data.hex()} for line in world.ledger.log]
    secrets = {actor.address: actor.secret for actor in world.actors}
    names = {actor.name: actor.secret for actor in world.actors} | {"stranger": STRANGER}
    found: dict[str, list[dict[str, Any]]] = {}
    for kind in kinds:
        place, data = _first(world, kind)
        opened = open_statement(data)
        author, statement, body = opened.sender, opened.statement, opened.body
        secret = secrets[author]

        def signed(said: Any, by: bytes = secret, like: Statement = statement) -> bytes:
            return sign_statement(by, make_statement(like.chain, like.run, like.head, said))

        found[kind] = []

        def add(
            attack: str, expect: str, words: str, what: bytes, after: int = place, kind: str = kind
        ) -> None:
            at = log[min(after, len(log) - 1)]["at"]
            found[kind].append(
                {
                    "attack": attack,
                    "after": after,
                    "at": at,
                    "expect": expect,
                    "words": words,
                    "data": what.hex(),
                }
            )

        for attack, expect, words, what in envelopes(secret, statement, data):
            is_receipt = attack == "right" and kind == "Receipt"
            add(attack, *(("Refused", "is for a neighbour") if is_receipt else (expect, words)), what)
        add("unknown-peer", *_of_a_stranger(kind), signed(body, STRANGER))
        for attack, expect, words, changed in changes(body):
            early = place if attack != "before-the-end" else place // 2
            add(attack, expect, words, signed(changed), early)
        other = _other(body)
        if other is not None and kind != "Receipt":
            add("second-statement", "Refused", "spoken in this slot", signed(other), place + 1)
        if kind != "Withdraw":
            words = "the run has ended" if kind != "Join" else ""
            add("after-the-end", "Refused", words, signed(body, STRANGER), len(log))
        late = closed(kind, body)
        if late is not None:
            after = next(n for n, ledger in enumerate(replay(log), 1) if n > place and late(ledger.state))
            add("past-deadline", "Refused", "", signed(body, names[LATE_SENDERS[kind]]), after)
    return log, found


def _of_a_stranger(kind: str) -> tuple[str, str]:
    return "Refused", dict.fromkeys(("Join", "Demand"), "no account").get(kind, "")


def _other(body: Any) -> Any:
    """Return another body for the same place; None where a place leaves no choice."""
    fixed = (
        "round",
        "lapse",
        "worker",
        "work",
        "dispute",
        "level",
        "demand",
        "accused",
        "low",
        "high",
        "place",
        "step",
        "node",
        "row",
        "block",
        "index",
        "total",
    )
    for field in dataclasses.fields(body):
        value = getattr(body, field.name)
        if field.name in fixed or field.name in ("first", "second", "role"):
            continue
        if isinstance(value, bytes) and len(value) == 32:
            return dataclasses.replace(body, **{field.name: WRONG})
        if isinstance(value, str):
            return dataclasses.replace(body, **{field.name: "/toy/other"})
        if isinstance(value, int):
            return dataclasses.replace(body, **{field.name: value + 1})
        if isinstance(value, tuple):
            return dataclasses.replace(body, **{field.name: value[1:]})
    return None


def _first(world: World, kind: str) -> tuple[int, bytes]:
    """Return the entry with the first statement of a kind, from round 1 on where it is about a round, and where there
    are crews about one; with its bytes. A receipt is on no ledger: its entry is that of the commitment after it."""
    if kind == "Receipt":
        place, commit = _first(world, "Commit")
        said = open_statement(commit)
        author = next(actor for actor in world.actors if actor.address == said.sender)
        journal = author.journal.items()
        return place, next(d for (n, slot, _), d in journal if n == said.body.round and slot.startswith(kind))
    for wanted in (1, 0):
        for number, line in enumerate(world.ledger.log):
            if line.kind == "statement":
                said = open_statement(line.data)
                if any(isinstance(e, Slashed) and e.address == said.sender for e in line.effects):
                    continue
                is_late = isinstance(said.body, OfRun) or said.body.round >= wanted
                is_wanted = not world.state.manifest.cuts or _is_of_a_crew(said.body)
                if said.statement.kind == kind and is_late and is_wanted:
                    return number, line.data
    raise ValueError(f"the run says no {kind}")


def _is_of_a_crew(body: Any) -> bool:
    """Return whether a member of a crew says a body, or it is about one, as far as that shows."""
    match body:
        case Join() | Commit():
            return body.post is not None
        case Opening():
            return bool(body.taken)
        case Reveal():
            return len(body.contributions) > 1
    return True


def write() -> None:
    """Write of each run the log and a file for each kind."""
    whole = [kind for kind in KINDS if kind not in ("Receipt", "Stuck")]
    for folder, world, kinds in ((FOLDER, played(), whole), (CREWS, played_by_crews(), OF_CREWS)):
        folder.mkdir(parents=True, exist_ok=True)
        log, found = vectors(world, kinds)
        (folder / "log.json").write_text(json.dumps(log, indent=0) + "\n", encoding="utf-8")
        for kind, attacks in found.items():
            (folder / f"{kind}.json").write_text(json.dumps(attacks, indent=1) + "\n", encoding="utf-8")
