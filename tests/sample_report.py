"""A believable report: four workers, two verifiers, ten rounds, and a worker that skips steps in round 4."""

import dataclasses
import hashlib

from verification.causes import Cause
from verification.report.schema import (
    SCHEMA_VERSION,
    AdversaryReport,
    AuditReport,
    ContributionReport,
    DisputeReport,
    EvaluationReport,
    GroupMemberReport,
    InputReport,
    JudgedReport,
    KernelsReport,
    LineReport,
    ListReport,
    LogReport,
    MoneyReport,
    MoveReport,
    PeerReport,
    PenaltyReport,
    PostReport,
    ReadReport,
    Report,
    ResultReport,
    RoundReport,
    StakePoint,
    TrafficReport,
)

CHEAT_ROUND = 4
STAKE = 190_000


def address(name: str) -> str:
    """Return the sample address that belongs to `name`."""
    return "0x" + hashlib.sha256(name.encode()).hexdigest()[:40]


def digest(*parts: object) -> str:
    """Return a digest for a place in the sample."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def sample(rounds: int = 10, workers: int = 4, verifiers: int = 2, cheat: bool = True) -> Report:
    """Return the report of a small run; with `cheat`, worker-3 (or the last) is convicted in round 4."""
    names = [f"worker-{index}" for index in range(1, workers + 1)]
    checkers = [f"verifier-{index}" for index in range(1, verifiers + 1)]
    cheats = cheat and rounds > CHEAT_ROUND and verifiers > 0 and workers > 0
    culprit = names[min(2, workers - 1)] if cheats else ""
    history = tuple(_round(number, names, checkers, culprit) for number in range(rounds))
    peers = tuple(_peer(name, history, culprit) for name in names + checkers)
    return Report(
        schema_version=SCHEMA_VERSION,
        run=digest("run"),
        manifest_digest=digest("manifest"),
        created_at_ms=1_700_000_000_000,
        title="shakespeare-nano",
        parameters={
            "workers": workers,
            "rounds": rounds,
            "inner steps": 20,
            "audit rate": "15%",
            "arithmetic": "exact-14",
        },
        rounds=history,
        peers=peers,
        disputes=(_dispute(culprit, checkers[0]),) if cheats else (),
        penalties=_penalties(culprit) if cheats else (),
        traffic=_traffic(names + checkers),
        money=_money(peers, cheats),
        economics=(
            AdversaryReport("one wrong round", "gain <= loss", 800, 91_000, False),
            AdversaryReport("audits skipped", "gain <= loss", 1_040, 1_000, True),
        ),
        evaluation=EvaluationReport(
            4.174 if rounds else None,
            max(4.174 - 0.2 * rounds, 1.6) if rounds else None,
            3.5 if rounds else None,
            "ROMEO:",
            " q;Vxa$ J3mw&ktT pQ\nz!hB  eoRd,u'cZ",
            "\nWhat is the matter, sir? I will not speak\nThe son of the contrary to the streets.",
        ),
        left_out=0,
        result=_result(culprit, rounds),
    )


def _result(culprit: str, rounds: int) -> ResultReport:
    if culprit:
        sentence = f"The swarm trained {rounds} rounds, and caught {culprit} skipping steps."
        facts = (
            "verifier-1 re-ran its round 4 and found the difference; the law added up two terms and convicted it.",
            "Every other audited round was reproduced bit for bit.",
        )
        return ResultReport(
            True,
            sentence,
            facts,
            (f"{culprit} lost 19\u202f000, proven by what it signed: an audit found it",),
        )
    return ResultReport(True, f"The swarm trained {rounds} rounds; every audit passed.", (), ())


def _loss(number: int) -> float:
    wobble = int(digest("loss", number)[:4], 16) / 65536
    return round(1.55 + 2.6 * 0.78**number + 0.04 * wobble, 4)


def _round(number: int, names: list[str], checkers: list[str], culprit: str) -> RoundReport:
    present = [name for name in names if name != culprit or number <= CHEAT_ROUND]
    contributions = tuple(
        ContributionReport(
            address(name), 20, digest("contribution", name, number), 0.8 / (1 + number), True, _loss(number)
        )
        for name in present
    )
    audits = []
    for checker in checkers:
        for name in present:
            caught = name == culprit and number == CHEAT_ROUND
            lucky = int(digest("draw", checker, name, number)[:2], 16) < 60
            if (caught and checker == checkers[0]) or (lucky and not caught):
                outcome = "mismatch" if caught else "pass"
                audits.append(AuditReport(address(checker), address(name), "private", outcome))
    opened = 1_700_000_001_000 + number * 6_400
    state = digest("state", number + 1)
    return RoundReport(number, _loss(number), state, opened, opened + 6_200, contributions, tuple(audits))


def _peer(name: str, history: tuple[RoundReport, ...], culprit: str) -> PeerReport:
    who, guilty = address(name), name == culprit
    of_it = [audit for one in history for audit in one.audits if audit.worker == who]
    delivered = sum(entry.worker == who for one in history for entry in one.contributions)
    slashed = STAKE // 10 if guilty else 0
    points = tuple(
        StakePoint(one.number, STAKE - slashed if one.number >= CHEAT_ROUND + 1 else STAKE) for one in history
    )
    return PeerReport(
        id=who,
        name=name,
        role=name.split("-")[0],
        stake_start=STAKE,
        stake_end=points[-1].stake if points else STAKE,
        rewards=1_200 * delivered,
        slashed=slashed,
        commitments=delivered,
        audits_passed=sum(audit.outcome == "pass" for audit in of_it),
        audits_failed=sum(audit.outcome == "mismatch" for audit in of_it),
        audits_done=sum(audit.verifier == who for one in history for audit in one.audits),
        status="excluded" if guilty else "active",
        excluded_in_round=CHEAT_ROUND + 1 if guilty else None,
        stake_history=points,
        kernels=_kernels(name),
        group=(GroupMemberReport(6, 31_400), GroupMemberReport(2, 0)) if name == "worker-2" else (),
        post=PostReport(0, 1, 3, 0.34, 14, 5, 40_000, 12_000, 3_000_000, 1_500_000)
        if name == "worker-1"
        else None,
        log=LogReport(40 * len(history), 0, digest("state", len(history))) if name != "verifier-2" else None,
    )


def _kernels(name: str) -> KernelsReport | None:
    """One worker has no compiler, one verifier said nothing."""
    if name == "worker-2":
        return KernelsReport(("float64",), False, "no C compiler was found: install gcc or clang", 2.9)
    return KernelsReport(("int16",), True, "", None) if name != "verifier-2" else None


def _dispute(culprit: str, checker: str) -> DisputeReport:
    accused, accuser, start = address(culprit), address(checker), 1_700_000_032_000
    moves = (
        (0, accuser, "challenged round 4 of worker-3 at leaf 2: its re-run gives another digest there."),
        (
            240,
            accused,
            "posted the state digests of inner steps 10 to 20; they fold to the leaf it had committed to.",
        ),
        (610, accuser, "named inner step 12 as the first that differs."),
        (1_020, accused, "posted the output digests of all 1,804 nodes of that step."),
        (1_350, accuser, "named node 1,207, number 17 of it, and opened what two of its terms read."),
        (
            1_480,
            "ledger",
            "computed these terms of number 17: they add up to another total than was claimed.",
        ),
    )
    return DisputeReport(
        number=1,
        round=CHEAT_ROUND,
        accused=accused,
        accuser=accuser,
        leaf=2,
        step=12,
        node=1207,
        near="working/parameter/layers.1.mlp.up_proj.weight",
        operator="product",
        place="inner step",
        verdict="guilty",
        cause=Cause.WRONG_RANGE.name,
        reason="the law adds the terms up to another total than the accused claimed",
        claimed_digest=digest("claimed"),
        computed_digest="",
        slashed=STAKE // 10,
        rewarded=STAKE // 20,
        burned=STAKE // 20,
        moves=tuple(MoveReport(start + offset, who, what) for offset, who, what in moves),
        program=digest("program"),
        lists=(
            ListReport("states after steps 11 to 20", 10, "the state after step 12", 512),
            ListReport("results of nodes 140 to 1943", 29, "nodes 1164 to 1227", 4_180),
            ListReport("results of nodes 1164 to 1227", 64, "node 1207", 2_370),
        ),
        inputs=(
            InputReport(
                1_180,
                "quantise",
                "an earlier node, by a path in the accused's own trace",
                "int8[512, 176], 1 of its blocks",
                176,
            ),
            InputReport(141, "constant", "the program itself", "float32[]", 0),
        ),
        judged=_judged(),
        accused_bytes=7_062,
        accuser_bytes=91_500,
    )


def _judged() -> JudgedReport:
    """Two terms of a product's number, one of which the accused had wrong."""
    terms = [(0, 14, -3), (1, 5, 2)]
    return JudgedReport(
        index=17,
        shape=(2, 16),
        at=(1, 1),
        dtype="float32",
        terms="0 to 1 of 2, added up",
        totals=(),
        claimed="-31",
        right="-32",
        rule="The product of the k-th numbers of a row and of a column.",
        given="bits = 14; n = 2",
        lines=tuple(
            LineReport(
                k,
                (ReadReport(1_180, (1, k), str(left)), ReadReport(1_181, (k, 1), str(right))),
                f"{left} * {right}",
                str(left * right),
            )
            for k, left, right in terms
        ),
    )


def _penalties(culprit: str) -> tuple[PenaltyReport, ...]:
    reason = f"inner step of round {CHEAT_ROUND}: the law adds the terms up to another total than the accused claimed"
    parts = (STAKE // 10, STAKE // 20, STAKE // 20)
    return (PenaltyReport(1_700_000_033_480, CHEAT_ROUND + 1, address(culprit), reason, "proof", *parts),)


def _traffic(names: list[str]) -> tuple[TrafficReport, ...]:
    kinds = (("contributions", 5_800_000), ("statements", 61_000), ("audits", 240_000))
    return tuple(
        TrafficReport(address(name), kind, base + 997 * index, base * 3 - 1009 * index)
        for index, name in enumerate(names)
        for kind, base in kinds
        if kind != "contributions" or name.startswith("worker")
    )


def _money(peers: tuple[PeerReport, ...], cheats: bool) -> MoneyReport:
    stakes = sum(peer.stake_end for peer in peers)
    burned = STAKE // 20 if cheats else 0
    parts = MoneyReport(1_204_300, stakes, 21_600, 350_000, burned, 0)
    return dataclasses.replace(parts, total=1_204_300 + stakes + 21_600 + 350_000 + burned)
