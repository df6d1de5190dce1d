"""States of a run that somebody keeps in its folder: to export one, or to go on from it in a new run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from p2p.blobs import BlobStore
from p2p.bundles import read_bundle
from p2p.lists import MAX_BLOB_BYTES
from trainer.folder import RunFolder
from trainer.programs.tracing.capture import TracedRun
from trainer.runs.facts import ModelFacts
from verification.errors import Malformed, Unavailable, UserError
from verification.manifest import BundleRef, Origin
from verification.state import State
from verification.tensors import Bundle
from verification.units import Count, Round


@dataclass(frozen=True)
class Kept:
    """A state and the round after which it is; None before the first."""

    ref: BundleRef
    round: Round | None
    bundle: Bundle

    @property
    def place(self) -> str:
        """Where in the run it is, for people."""
        return "before the first round" if self.round is None else f"after round {self.round}"


class Missing(UserError):
    """No peer's folder here holds a state any more."""


def kept_state(folder: RunFolder, state: State, number: int | None) -> Kept:
    """Return the state after a round of a folder's run, or the newest; raises UserError for a round without a state,
    Missing where nobody here keeps it."""
    return _kept(folder, *_chosen(state, number))


def start_state(folder: RunFolder, state: State) -> Kept:
    """Return the state that a folder's run started from; raises Missing."""
    return _kept(folder, state.manifest.start, None)


def _kept(folder: RunFolder, ref: BundleRef, number: Round | None) -> Kept:
    return Kept(ref, number, stored_bundle([folder.blobs, *folder.stores()], ref))


def _chosen(state: State, number: int | None) -> tuple[BundleRef, Round | None]:
    sealed = {int(worked.number): worked.sealed for worked in state.rounds if worked.sealed is not None}
    if number is None and not sealed:
        return state.manifest.start, None
    wanted = max(sealed) if number is None else number
    if wanted not in sealed:
        known = f"0 to {max(sealed)}" if sealed else "none"
        raise UserError(f"round {wanted} has no state; rounds with one: {known}")
    return sealed[wanted], Round(wanted)


def stored_bundle(stores: Sequence[Path], ref: BundleRef) -> Bundle:
    """Return a bundle that one of some stores holds; raises Missing where none does."""
    for folder in stores:
        try:
            return read_bundle(BlobStore(folder), ref, MAX_BLOB_BYTES)
        except (Unavailable, Malformed):
            continue
    raise Missing(f"no peer's folder here holds state {ref.digest.hex()[:16]} any more: take a newer round")


@dataclass(frozen=True)
class Ancestor:
    """What a new run goes on from: a state of another one, and what is known of its model."""

    origin: Origin
    start: Bundle
    facts: ModelFacts

    def continued_by(self, traced: TracedRun, facts: ModelFacts) -> TracedRun:
        """Return a traced run that starts from the state; raises UserError where its model is another one."""
        names = self.facts.parameter_names
        if traced.parameter_names != names:
            strange = sorted(set(traced.parameter_names) ^ set(names))
            raise UserError(f"the job's model and that of the run it extends differ: see {strange[:1]}")
        for name, old, new in zip(names, self.start.tensors, traced.start.tensors, strict=False):
            if old.shape != new.shape:
                raise UserError(
                    f"parameter {name!r} has shape {list(old.shape)} in the run that is extended, "
                    f"{list(new.shape)} in the job"
                )
        if facts.frozen != self.facts.frozen:
            raise UserError(
                "the job's frozen weights are not those of the run it extends: take its model.from, or its seed"
            )
        if facts.lora is not None and self.facts.lora is not None:
            was, wanted = self.facts.lora["alpha"], facts.lora["alpha"]
            if was != wanted:
                raise UserError(
                    f"training.lora.alpha: is {was:g} in the run that is extended, {wanted:g} in the job"
                )
        return replace(traced, start=self.start)


def ancestor_of(kept: Kept, state: State, facts: ModelFacts) -> Ancestor:
    """Return a run's state as what another goes on from; raises UserError for a run that has trained no round."""
    if kept.round is None:
        raise UserError("the run has trained no round: make a new one with 'proofswarm run create'")
    before = 0 if state.manifest.origin is None else state.manifest.origin.trained
    origin = Origin(state.run, kept.round, Count(before + kept.round + 1))
    return Ancestor(origin, kept.bundle, facts)
