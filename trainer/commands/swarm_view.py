"""The live view of a swarm on this machine: rounds, loss, peers, stakes, audits and bytes, from ledger and events."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from verification import effects as done
from verification.report.words import counted, one_line, reason
from verification.signing import checksum
from verification.state import Audit, Member, Standing, State
from verification.statements import WORKER
from verification.units import Millis

RECENT = 8
"""Lines of news that stay on the screen."""


@dataclass
class PeerFigures:
    """What the view shows of one peer beyond the ledger."""

    name: str
    doing: str = "starting"
    moved: int = 0
    loss: float | None = None
    passed: int = 0
    failed: int = 0


@dataclass
class SwarmView:
    """Collects events and effects, and draws."""

    began: float
    clock: Callable[[], float]
    peers: dict[str, PeerFigures] = field(default_factory=dict)
    losses: dict[int, list[float]] = field(default_factory=dict)
    news: list[str] = field(default_factory=list)

    def add_peer(self, account: str, name: str) -> None:
        """Show a peer from the start."""
        self.peers[account] = PeerFigures(name)

    def take_event(self, event: Mapping[str, Any]) -> None:
        """Fold one event of a peer."""
        figures = self.peers.get(str(event["peer"]))
        if figures is None:
            return
        match event["kind"]:
            case "measured":
                figures.doing = "waiting" if event["golden"] else "not bit-exact"
            case "kernels":
                slow = f"slow: {one_line(str(event['refused']))}"
                if event["refused"] and slow not in self.news:  # peers of one machine say the same
                    self._tell(slow)
            case "computed":
                figures.doing = f"{'trained' if event['own'] else 'audited'} round {event['round']}"
                if event["own"] and event["loss"] is not None:  # only one shard of a crew makes the loss
                    figures.loss = event["loss"]
                    self.losses.setdefault(event["round"], []).append(event["loss"])
            case "traffic":
                figures.moved = sum(sum(pair) for pair in event["bytes"].values())
            case "ended" | "stopped":
                figures.doing = "done"

    def take_effect(self, at: Millis, effect: done.Effect) -> None:
        """Fold one effect of the law."""
        match effect:
            case done.AuditEnded():
                figures = self.peers.get(checksum(effect.worker))
                if figures is not None:
                    figures.passed += effect.outcome is Audit.PASSED
                    figures.failed += effect.outcome is Audit.MISMATCH
            case done.DisputeOpened():
                where = f"{effect.place.value} of round {effect.round}"
                self._tell(f"{self._name(effect.challenger)} disputes {self._name(effect.accused)}: {where}")
            case done.DisputeEnded():
                where = f"inner step {effect.step}" if effect.step is not None else effect.place.value
                where = where if effect.node is None else f"node {effect.node} ({effect.operator}) in {where}"
                ruling = f"{effect.ruling.value}: {where} of round {effect.round}"
                self._tell(f"the law finds {self._name(effect.accused)} {ruling}")
            case done.Slashed():
                self._tell(
                    f"{self._name(effect.address)} loses {effect.stake} stake and {effect.escrow} escrow"
                )
            case done.StandingChanged():
                self._tell(f"{self._name(effect.address)} is {effect.standing}: {reason(effect.reason)}")

    def draw(self, state: State) -> RenderableType:
        """Return the screen."""
        return Group(
            self._head(state),
            self._table(state),
            *(Text(f"  {line}", style="yellow") for line in self.news[-RECENT:]),
        )

    def line(self, state: State) -> str:
        """Return the one-line form for a terminal that cannot redraw."""
        number = len(state.rounds)
        losses = self.losses.get(number - 2, [])
        loss = f", loss {sum(losses) / len(losses):.3f}" if losses else ""
        rounds = f"round {number} of {state.manifest.work.rounds}"
        return f"{rounds}, {state.stage.value}{loss}, {counted(len(state.disputes), 'dispute')}"

    def _head(self, state: State) -> RenderableType:
        work = state.manifest.work
        finished = sum(worked.sealed is not None for worked in state.rounds)
        recent = self.losses.get(max(self.losses, default=0), [])
        loss = f"   loss {sum(recent) / len(recent):.3f}" if recent else ""
        seconds = int(self.clock() - self.began)
        grid = Table.grid(padding=(0, 2))
        title = Text(
            f"{finished}/{work.rounds} rounds   {state.stage.value}{loss}   {seconds} s", style="bold"
        )
        grid.add_row(title, ProgressBar(total=work.rounds, completed=finished, width=30))
        return grid

    def _table(self, state: State) -> Table:
        table = Table(box=None, header_style="dim", pad_edge=False)
        for name in ("peer", "role", "standing"):
            table.add_column(name)
        for name in ("stake", "escrow", "loss", "audits", "bytes"):
            table.add_column(name, justify="right")
        table.add_column("doing")
        members = {checksum(address): member for address, member in state.members.items()}
        for account, figures in self.peers.items():
            member = members.get(account)
            style = "red" if member is not None and member.standing is Standing.EXCLUDED else ""
            table.add_row(figures.name, *_standing(member), *_figures(member, figures), style=style)
        return table

    def _tell(self, line: str) -> None:
        self.news.append(line)

    def _name(self, address: bytes) -> str:
        account = checksum(address)  # type: ignore[arg-type]
        return self.peers[account].name if account in self.peers else account[:10]


def _standing(member: Member | None) -> tuple[str, ...]:
    if member is None:
        return "", "", "", ""
    return member.role, member.standing.value, str(member.stake), str(sum(member.escrow.values()))


def _figures(member: Member | None, figures: PeerFigures) -> tuple[str, ...]:
    loss = f"{figures.loss:.3f}" if figures.loss is not None else ""
    audits = f"{figures.passed} ok" + (f", {figures.failed} wrong" if figures.failed else "")
    shown = audits if member is not None and member.role == WORKER else ""
    return loss, shown, f"{figures.moved / 1e6:.1f} MB", figures.doing
