"""How many tokens a second an opponent should make, by the bytes that it sends, its link and its step: closed formulas.

They know of no waiting but for compute and for the link, so what is missing beside them is what a protocol costs.
"""

from dataclasses import dataclass

PAYLOAD = 1448 / 1514
"""Payload's share of what a link carries: TCP with time stamps in Ethernet frames."""
FLOAT = 4
HALF = 2


@dataclass(frozen=True)
class Setting:
    """Peers, their links in Mbit/s, seconds of a step, steps between two syncs of who trains locally, the model's
    parameters, and the bytes of a contribution of ours."""

    peers: int
    mbit: float
    step_seconds: float
    local_steps: int
    parameters: int
    contribution: int
    verifiers: int

    def seconds(self, size: float) -> float:
        """Return how long so many bytes take over a link."""
        return 8e-6 * size / (self.mbit * PAYLOAD)


def seconds_per_step(formula: str, setting: Setting) -> float:
    """Return the seconds between two steps of a peer, its part of the syncs included; KeyError for no formula."""
    return FORMULAS[formula](setting)


def _ours(setting: Setting) -> float:
    """Each worker fetches everybody else's contribution, and gives its own to everybody else and each verifier, in
    turn with compute."""
    return setting.step_seconds + _sync_seconds(setting) / setting.local_steps


def _overlapping(setting: Setting) -> float:
    """The same bytes beside the next round's compute: the longer of both counts."""
    return max(setting.step_seconds, _sync_seconds(setting) / setting.local_steps)


def _sync_seconds(setting: Setting) -> float:
    shares = setting.peers - 1 + setting.verifiers
    return setting.seconds(shares * setting.contribution)


def ring(peers: int, size: float) -> float:
    """Return the bytes that a peer sends, and receives, in an all-reduce of `size` bytes (Patarasuk and Yuan, 2009)."""
    return 2 * (peers - 1) / peers * size


def _ddp(setting: Setting) -> float:
    """Gradients as float32, beside the step: the longer of both counts."""
    size = ring(setting.peers, FLOAT * setting.parameters)
    return max(setting.step_seconds, setting.seconds(size))


def _diloco(setting: Setting) -> float:
    """Pseudo-gradients as float32, in turn with the steps (Douillard et al., "DiLoCo", 2023)."""
    size = ring(setting.peers, FLOAT * setting.parameters)
    return setting.step_seconds + setting.seconds(size) / setting.local_steps


def _hivemind(setting: Setting) -> float:
    """Gradients and then parameters as float16, both in turn with the step: what peers average a batch and an epoch."""
    size = ring(setting.peers, HALF * setting.parameters)
    return setting.step_seconds + setting.seconds(2 * size)


FORMULAS = {
    "ours": _ours,
    "ours-overlap": _overlapping,
    "ddp": _ddp,
    "torchft": _diloco,
    "hivemind": _hivemind,
}
"""By opponent; of ours by whether it trains while bytes travel."""
