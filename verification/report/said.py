"""What peers say of themselves in their own logs: read with types, and for their own account alone.

A log belongs to the account that its first event names, if that is the ledger's and no other log claims it. Everything
else is counted and left out: nobody can be made to say anything by another one's file.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from verification.report import schema
from verification.signing import checksum
from verification.state import State
from verification.units import Address

Event = Mapping[str, Any]
"""One event as it stands in a log; an empty one stands for a line that nobody can read."""

MAX_TEXT = 400
"""Letters of a text, and items of a list, that are kept of what a peer says."""


def _known(value: Any) -> Any:
    """Take a number that is not finite for one that is not known."""
    return None if type(value) is float and not math.isfinite(value) else value


Number = Annotated[Annotated[float, Field(ge=-1e30, le=1e30)] | None, BeforeValidator(_known)]
Natural = Annotated[int, Field(ge=0, le=2**53)]
Moved = Annotated[list[Natural], Field(min_length=2, max_length=2)]
Name = Annotated[str, Field(max_length=64)]


class _Part(BaseModel):
    """Fields that a report does not need may be anything."""

    model_config = ConfigDict(strict=True, extra="ignore")


class _Said(_Part):
    """One event of a peer."""

    peer: str


class _Started(_Said):
    kind: Literal["started"]


class _Computed(_Said):
    kind: Literal["computed"]
    round: Natural
    worker: str
    own: bool
    loss: Number
    ms: Natural = 0
    waited: Natural = 0
    sent: Natural = 0
    received: Natural = 0


class _Traffic(_Said):
    kind: Literal["traffic"]
    bytes: Annotated[dict[Name, Moved], Field(max_length=MAX_TEXT)]


class _Ended(_Said):
    kind: Literal["ended"]
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Kernels(_Said):
    kind: Literal["kernels"]
    products: Annotated[list[str], Field(max_length=MAX_TEXT)]
    compiled: bool
    refused: str
    over_float32: Number = None


class _Shard(_Part):
    numbers: Natural
    first: str
    last: str
    waited: Natural
    sent: Natural
    received: Natural


class _Member(_Part):
    records: Natural
    micros: Natural
    shard: _Shard | None = None


class _Group(_Said):
    kind: Literal["group"]
    members: Annotated[list[_Member], Field(max_length=MAX_TEXT)]


class _Evaluated(_Said):
    kind: Literal["evaluated"]
    loss_before: Number
    loss_after: Number
    bytes_per_token: Annotated[float, Field(gt=0, le=1e6)] | None = None
    sample_prompt: str
    sample_before: str
    sample_after: str


_Known = _Started | _Computed | _Traffic | _Ended | _Kernels | _Group | _Evaluated
_READER: TypeAdapter[_Known] = TypeAdapter(Annotated[_Known, Field(discriminator="kind")])
_KINDS = ("started", "computed", "traffic", "ended", "kernels", "group", "evaluated")


@dataclass
class Own:
    """What one peer said of itself. `traffic` is [sent, received] by kind of message over all of its starts."""

    name: str
    log: schema.LogReport
    losses: dict[int, float] = field(default_factory=dict)
    traffic: dict[str, list[int]] = field(default_factory=dict)
    kernels: schema.KernelsReport | None = None
    group: tuple[schema.GroupMemberReport, ...] = ()
    shares: dict[int, tuple[int, int, int, int]] = field(default_factory=dict)
    """Of its own rounds milliseconds, of these waited for others of its crew, and bytes given and taken."""
    evaluation: schema.EvaluationReport | None = None


def read(state: State, logs: Mapping[str, Sequence[Event]]) -> tuple[dict[str, Own], int]:
    """Return what each account said of itself, and how many lines belong to no account's own log."""
    known = {checksum(address) for address in (*state.members, state.submitter)}
    owners = {name: _owner(log) for name, log in logs.items()}
    claims = list(owners.values())
    own = {
        who: _own(name, who, logs[name])
        for name, who in owners.items()
        if who in known and claims.count(who) == 1
    }
    kept = {one.name for one in own.values()}
    return own, sum(len(log) for name, log in logs.items() if name not in kept)


class Losses:
    """The losses of their own contributions that accounts said in their logs, as `read` takes them, while logs grow."""

    def __init__(self) -> None:
        """No log says anything yet."""
        self._owners: dict[str, str] = {}
        self._said: dict[int, dict[str, float]] = {}

    def take(self, log: str, events: Sequence[Event]) -> None:
        """Take what a log has gained."""
        who = self._owners.get(log) or _owner(events)
        self._owners[log] = who
        for event in events:
            one = _understood(event, who) if event.get("kind") == "computed" else None
            if isinstance(one, _Computed) and (loss := _own_loss(one, who)) is not None:
                self._said.setdefault(one.round, {})[who] = loss

    def known(self, number: int, workers: Sequence[Address]) -> list[float]:
        """Return the known losses of some workers' contributions to a round; a round is asked for once."""
        said, claims = self._said.pop(number, {}), list(self._owners.values())
        names = [checksum(worker) for worker in workers]
        return [said[who] for who in names if who in said and claims.count(who) == 1]


def _owner(log: Sequence[Event]) -> str:
    """Return the account that the first readable event names."""
    return next((who for event in log if isinstance(who := event.get("peer"), str)), "")


def _machine(said: _Member) -> schema.GroupMemberReport:
    held = said.shard
    shard = (
        None
        if held is None
        else schema.ShardReport(
            held.numbers, held.first[:MAX_TEXT], held.last[:MAX_TEXT], held.waited, held.sent, held.received
        )
    )
    return schema.GroupMemberReport(said.records, said.micros, shard)


def _own_loss(one: _Computed, who: str) -> float | None:
    """Return the loss of a contribution of the log's own account, if that is what was computed."""
    return float(one.loss) if one.own and one.worker == who and one.loss is not None else None


def _own(name: str, who: str, log: Sequence[Event]) -> Own:
    said, left_out = [], 0
    for event in log:
        one = _understood(event, who)
        left_out += one is None
        said += [one] if isinstance(one, BaseModel) else []
    found = Own(name, schema.LogReport(len(log) - left_out, left_out, ""))
    last: dict[str, list[int]] = {}
    for one in said:
        match one:
            case _Started():
                _add(found.traffic, last)
                last = {}
            case _Computed() if one.own and one.worker == who:
                found.shares[one.round] = one.ms, one.waited, one.sent, one.received
                if (loss := _own_loss(one, who)) is not None:
                    found.losses[one.round] = loss
            case _Traffic():
                last = one.bytes
            case _Ended():
                found.log = schema.LogReport(found.log.lines, found.log.left_out, one.digest)
            case _Kernels():
                products, refused = tuple(text[:MAX_TEXT] for text in one.products), one.refused[:MAX_TEXT]
                found.kernels = schema.KernelsReport(products, one.compiled, refused, one.over_float32)
            case _Group():
                found.group = tuple(map(_machine, one.members))
            case _Evaluated():
                samples = (
                    text[:MAX_TEXT] for text in (one.sample_prompt, one.sample_before, one.sample_after)
                )
                found.evaluation = schema.EvaluationReport(
                    one.loss_before, one.loss_after, one.bytes_per_token, *samples
                )
    _add(found.traffic, last)
    return found


def _understood(event: Event, who: str) -> _Known | bool | None:
    """Return an event that a report needs, True for another one of the log's own, None for one to leave out."""
    if event.get("peer") != who or not isinstance(event.get("kind"), str):
        return None
    if event["kind"] not in _KINDS:
        return True
    try:
        return _READER.validate_python(dict(event))
    except ValidationError:
        return None


def _add(total: dict[str, list[int]], last: Mapping[str, Sequence[int]]) -> None:
    """Add the last count of one of a peer's starts, since counters begin at zero with every start."""
    for kind, (sent, received) in last.items():
        row = total.setdefault(kind, [0, 0])
        row[0], row[1] = row[0] + sent, row[1] + received
