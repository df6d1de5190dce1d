"""The local ledger without its file: one log, one state, the same heads and the same ticks."""

from collections.abc import Callable
from dataclasses import dataclass

from simulator.toy import ToyExecutor
from verification import codec, law
from verification.effects import Effect
from verification.errors import Violation
from verification.executor import Executor
from verification.ledger.local import Genesis, next_head
from verification.state import State, total_money
from verification.statements import open_statement
from verification.units import Digest, Millis


@dataclass(frozen=True)
class Line:
    """One admitted entry with its effects."""

    at: Millis
    kind: str
    data: bytes
    head: Digest
    effects: tuple[Effect, ...]


class MemoryLedger:
    """Admits statements as `LocalLedger` does; checks at every entry that no money was made or lost."""

    def __init__(self, genesis: Genesis, now: Millis, is_checked: bool = True) -> None:
        """Found the run; `is_checked` counts all money after every entry, which takes a time that grows with it."""
        self.executor: Executor = ToyExecutor()
        self.state = law.found(
            genesis.manifest, genesis.chain, genesis.submitter, dict(genesis.balances), genesis.deposit, now
        )
        self.money = total_money(self.state)
        self._is_checked = is_checked
        data = codec.encode(genesis)
        self.state.head = next_head(law.GENESIS_HEAD, 0, now, "found", data)
        self.log = [Line(now, "found", data, self.state.head, ())]

    @property
    def effects(self) -> list[Effect]:
        """Return all effects so far, oldest first."""
        return [effect for line in self.log for effect in line.effects]

    def replay(self) -> State:
        """Return the state that folding the log from the start gives."""
        genesis = codec.decode(Genesis, self.log[0].data)
        state = law.found(
            genesis.manifest,
            genesis.chain,
            genesis.submitter,
            dict(genesis.balances),
            genesis.deposit,
            self.log[0].at,
        )
        state.head = self.log[0].head
        for line in self.log[1:]:
            state.head = line.head
            effects = (
                law.advance(state, line.at)
                if line.kind == "tick"
                else law.apply(state, open_statement(line.data), line.at, self.executor)
            )
            assert tuple(effects) == line.effects
        return state

    def submit(self, data: bytes, now: Millis) -> bool:
        """Admit a statement or raise the Violation; return False for what is known, which is acknowledged again."""
        self.tick(now)
        said = open_statement(data)
        if law.is_known(self.state, said):
            return False
        self._append(now, "statement", data, lambda: law.apply(self.state, said, now, self.executor))
        return True

    def tick(self, now: Millis) -> bool:
        """Let due deadlines pass; returns whether there were any."""
        deadline = law.next_deadline(self.state)
        if deadline is None or deadline > now:
            return False
        self._append(now, "tick", b"", lambda: law.advance(self.state, now))
        return True

    def _append(self, at: Millis, kind: str, data: bytes, fold: Callable[[], list[Effect]]) -> None:
        before = self.state.head
        self.state.head = next_head(before, len(self.log), at, kind, data)
        try:
            effects = fold()
        except Violation:
            self.state.head = before
            raise
        self.log.append(Line(at, kind, data, self.state.head, tuple(effects)))
        if self._is_checked:
            assert total_money(self.state) == self.money, f"entry {len(self.log) - 1} makes or loses money"
