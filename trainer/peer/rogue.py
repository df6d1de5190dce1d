"""A peer that misbehaves, for experiments: `trainer.peer.runtime` with behaviours between decision and deed."""

from typing import Any

import trio

from trainer.events import EventLog
from trainer.peer.runtime import Peer, PeerConfig
from trainer.rounds import cheats
from verification.adversaries import Act, Forge, Throw, View, decide_as, playbook, result_as
from verification.errors import Violation
from verification.honest.actions import Computed
from verification.honest.decide import Me
from verification.ledger.log import Genesis
from verification.state import State
from verification.statements import make_statement, sign_statement
from verification.units import Address, Digest


class Rogue(Peer):
    """Plays the `cheat` of its settings.

    What it says is by `verification.adversaries.playbook`, how it trains by `trainer.rounds.cheats`.
    """

    def __init__(self, config: PeerConfig, genesis: Genesis, nursery: trio.Nursery, events: EventLog) -> None:
        """As `Peer`; raises UserError for an unknown cheat."""
        super().__init__(config, genesis, nursery, events)
        self._behaviours = playbook.behaviours(cheats.names_in(config.cheat), config.cheat_from)
        self._chain, self._run_id = genesis.chain, genesis.run
        self._me: Me
        self._faults = 0

    def _decide(self, state: State, me: Me) -> list[Act]:
        self._me = me
        wanted = decide_as(self._behaviours, self._view(state))
        faults = sum(behaviour.faults for behaviour in self._behaviours)
        if faults > self._faults:
            self._log("misbehaved", times=faults - self._faults)
            self._faults = faults
        return wanted

    async def _do(self, act: Act, head: Digest | None) -> None:
        """Send what is forged or thrown past the journal, once."""
        if isinstance(act, Forge) and head is not None:
            statement = make_statement(self._chain, self._run_id, head, act.body)
            await self._throw(sign_statement(self._config.identity.secret, statement), statement.kind)
        elif isinstance(act, Throw):
            await self._throw(act.data, "bytes")
        else:
            await super()._do(act, head)

    async def _throw(self, data: bytes, kind: str) -> None:
        try:
            await self._ledger.submit(data)
        except Violation as refusal:
            self._log("declined", statement=kind, reason=f"{type(refusal).__name__}: {refusal}")

    async def _compute(self, action: Computed) -> Any:
        """Ask the behaviours first, since some compute nothing, and again with the true result if they wanted it."""
        asked: list[Computed] = []
        async with self._ledger.state() as state:
            made = result_as(self._behaviours, self._view(state), action, lambda: asked.append(action))
        if not asked:
            return made
        true = await super()._compute(action)
        async with self._ledger.state() as state:
            return result_as(self._behaviours, self._view(state), action, lambda: true)

    def _plays(self, worker: Address, is_disputed: bool) -> bool:
        hides = is_disputed and any(behaviour.recomputes for behaviour in self._behaviours)
        return super()._plays(worker, is_disputed) and not hides

    def _view(self, state: State) -> View:
        return View(state, self._me, self._results, self._ledger.now())
