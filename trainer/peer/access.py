"""Who may have which bytes of this peer's, by what the ledger says."""

from collections import Counter
from collections.abc import Callable

import trio

from trainer.runs.library import published
from verification.honest import decide
from verification.manifest import Manifest
from verification.state import Phase, Standing, State, state_before
from verification.units import Address, Digest, Round

LOOK_SECONDS = 0.5
"""How long a member waits for this peer to see on the ledger what the member has seen there already."""
WAITING = 4
"""Questions of one member that wait for that."""


class Access:
    """Members and the blobs that they and others may have, as far as a peer has seen the ledger.

    Members may have what rounds, audits and disputes ask for: states, and the contributions of a round once its
    commitments have closed, so that nobody chooses its own by those of others. Who is no member may have what a joiner
    needs: programs, data and the newest state.
    """

    def __init__(self, manifest: Manifest, look: Callable[[], None]) -> None:
        """`look` asks for a look at the ledger, after which `note` is called."""
        self._public = frozenset(published(manifest))
        self._shared: frozenset[Digest] = frozenset()
        self._members: frozenset[Address] = frozenset()
        self._look, self._noted = look, trio.Event()
        self._waiting: Counter[Address] = Counter()

    def note(self, state: State) -> None:
        """See who and what the ledger names."""
        members = state.members.values()
        self._members = frozenset(m.address for m in members if m.standing is not Standing.EXCLUDED)
        newest = {state_before(state, Round(len(state.rounds))).blob}
        self._public = frozenset(published(state.manifest)) | newest
        self._shared = self._public | _shared(state)
        self._noted.set()
        self._noted = trio.Event()

    def is_member(self, account: Address) -> bool:
        """Return whether an account takes part in the run and has not been excluded."""
        return account in self._members

    async def admits(self, account: Address, blob: Digest) -> bool:
        """Return whether an account may have a blob; a member may know earlier than this peer that it may."""
        if self._may_have(account, blob):
            return True
        if not self.is_member(account) or self._waiting[account] >= WAITING:
            return False
        self._waiting[account] += 1
        try:
            with trio.move_on_after(LOOK_SECONDS):
                while not self._may_have(account, blob):
                    self._look()
                    await self._noted.wait()
        finally:
            self._waiting[account] -= 1
        return self._may_have(account, blob)

    def _may_have(self, account: Address, blob: Digest) -> bool:
        return blob in (self._shared if self.is_member(account) else self._public)


def _shared(state: State) -> set[Digest]:
    """Return the states and contributions that a member may be asked about, but for those of open rounds."""
    shared: set[Digest] = set()
    for number in decide.needed_rounds(state):
        if number == len(state.rounds) or state.rounds[number].phase is not Phase.COMMIT:
            shared |= {ref.blob for ref in decide.blobs_of_round(state, number)}
        else:
            shared |= {state.rounds[number].start.blob, state_before(state, number).blob}
        if number < len(state.rounds):
            shared |= {ref.blob for ref in state.rounds[number].seals.values()}
    return shared
