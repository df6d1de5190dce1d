"""A peer that misbehaves, for experiments: behaviours between the honest decision and its deed."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from trainer.peer.config import Character, PeerConfig
from trainer.peer.deeds import Deeds
from trainer.peer.policy import Honest, Look
from trainer.peer.voice import Voice
from trainer.rounds import cheats
from trainer.runs.ledgers import genesis_of
from verification.adversaries import Act, Behaviour, Forge, Throw, decide_as, playbook, result_as
from verification.honest.actions import Computed, RunRound
from verification.honest.view import View
from verification.ledger.log import Twice
from verification.signed import make_statement, sign_statement
from verification.statements import Body
from verification.units import Digest

PROCESS = "trainer.shards.cheating"

Sign = Callable[[Digest, Body], bytes]
"""(head, body) to the statement, signed afresh."""


class Rogue:
    """The policy of a peer with behaviours: what they forge and throw goes past its journal."""

    def __init__(self, behaviours: Sequence[Behaviour], sign: Sign, deeds: Deeds, voice: Voice) -> None:
        """As `Honest`, but for the behaviours."""
        self._behaviours, self._sign, self._deeds, self._voice = behaviours, sign, deeds, voice
        self._honest = Honest(deeds, voice)
        self._faults = 0

    def decide(self, view: View, twice: Sequence[Twice]) -> list[Act]:
        """Return what a peer with these behaviours does now; it reports nobody."""
        wanted = decide_as(self._behaviours, view)
        faults = sum(behaviour.faults for behaviour in self._behaviours)
        if faults > self._faults:
            self._voice.record.write("misbehaved", times=faults - self._faults)
            self._faults = faults
        return wanted

    async def say(self, act: Any) -> None:
        """Send what is forged or thrown past the journal, once."""
        match act:
            case Forge(body):
                data = self._sign(await self._voice.head_for(body), body)
                await self._voice.send(data, type(body).__name__)
            case Throw(data):
                await self._voice.send(data, "bytes")
            case _:
                await self._honest.say(act)

    async def compute(self, action: Computed, look: Look) -> Any:
        """Ask the behaviours first, since some compute nothing, and again with the true result if they wanted it."""
        asked: list[Computed] = []
        async with look() as view:
            made = result_as(self._behaviours, view, action, lambda: asked.append(action))
        if not asked:
            return made
        hides = any(behaviour.recomputes for behaviour in self._behaviours)
        true = await self._deeds.compute(action, as_auditor=hides and not isinstance(action, RunRound))
        async with look() as view:
            return result_as(self._behaviours, view, action, lambda: true)


def misbehaving(config: PeerConfig, cheat: str, first_round: int) -> PeerConfig:
    """Return the settings of a peer that plays `cheat` from a round on; raises UserError for an unknown one.

    What it says is by `verification.adversaries.playbook`, what it trains with by `trainer.rounds.cheats`.
    """
    names = cheats.names_in(cheat)

    def sign(head: Digest, body: Body) -> bytes:
        genesis = genesis_of(config.folder)
        statement = make_statement(genesis.chain, genesis.run, head, body)
        return sign_statement(config.account.identity.secret, statement)

    def policy(deeds: Deeds, voice: Voice) -> Rogue:
        return Rogue(playbook.behaviours(names, first_round), sign, deeds, voice)

    label = {"cheat": cheat, "cheat_from": first_round}
    return dataclasses.replace(config, character=Character(policy, (PROCESS, cheat, str(first_round)), label))
