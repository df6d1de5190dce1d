"""The order in which work runs: one that is kept while groups grow, and the one that saves memory."""

import heapq
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from trainer.programs.loops.groups import LoopStep

HORIZON = 1024
"""Works that a search looks at before it takes two works for dependent: what planning costs stays linear."""
SMALL = 16
"""A work that makes so many times less than it reads costs no memory worth the name: an exponent or a sum of rows."""


class Order:
    """Work in an order in which all that a work needs comes before it, kept while needs are added.

    Pearce and Kelly, "A Dynamic Topological Sort Algorithm for Directed Acyclic Graphs" (2007): a new need looks only
    at what lies between its two ends, and moves nothing else. `seen` counts the works looked at.
    """

    def __init__(self) -> None:
        self._places: dict[LoopStep, int] = {}
        self._sources: dict[LoopStep, set[LoopStep]] = {}
        self._users: dict[LoopStep, set[LoopStep]] = {}
        self._next = 0
        self.seen = 0

    @property
    def works(self) -> list[LoopStep]:
        """All work in the order in which it was added."""
        return list(self._places)

    def users(self, work: LoopStep) -> Collection[LoopStep]:
        """Return the works that need this one."""
        return self._users[work]

    def add(self, work: LoopStep) -> None:
        """Put new work, which needs nothing yet, at the end."""
        self._places[work], self._next = self._next, self._next + 1
        self._sources[work], self._users[work] = set(), set()

    def need(self, user: LoopStep, sources: Iterable[LoopStep]) -> bool:
        """Let `user` come after `sources`; returns False, and changes nothing, where one of them needs it."""
        needed = {source for source in sources if source is not user}
        first = self._places[user]
        late = [source for source in needed if self._places[source] > first]
        if late:
            last = max(self._places[source] for source in late)
            before = self._reached(late, self._sources, lambda place: place >= first)
            after = self._reached([user], self._users, lambda place: place <= last)
            if before is None or after is None or user in before:
                return False
            self._move([*self._sorted(before), *self._sorted(after)])
        self._sources[user] |= needed
        for source in needed:
            self._users[source].add(user)
        return True

    def merge(self, work: LoopStep, into: LoopStep) -> bool:
        """Let `into` take the place of a work that none but it needs; returns False, changing nothing, on a circle."""
        if not self.need(into, self._sources[work] - {into}):
            return False
        for source in self._sources.pop(work):
            self._users[source].discard(work)
        for user in self._users.pop(work):
            self._sources[user].discard(work)
        del self._places[work]
        return True

    def _reached(
        self,
        starts: Iterable[LoopStep],
        edges: Mapping[LoopStep, set[LoopStep]],
        between: Callable[[int], bool],
    ) -> set[LoopStep] | None:
        """Return what `edges` lead to, places `between` only, with the starts; None where it is more than HORIZON."""
        waiting = list(starts)
        found = set(waiting)
        while waiting:
            if len(found) > HORIZON:
                return None
            for work in edges[waiting.pop()]:
                self.seen += 1
                if work not in found and between(self._places[work]):
                    found.add(work)
                    waiting.append(work)
        return found

    def _sorted(self, works: Iterable[LoopStep]) -> list[LoopStep]:
        return sorted(works, key=self._places.__getitem__)

    def _move(self, works: Sequence[LoopStep]) -> None:
        """Give the works the places that they have together, in the order given."""
        places = sorted(self._places[work] for work in works)
        self._places.update(zip(works, places, strict=True))


def by_liveness(works: Sequence[LoopStep], sizes: Mapping[int, int]) -> list[LoopStep]:
    """Return works in an order in which what they need comes first, and little memory is needed at a time.

    `sizes` are the bytes of the buffers that end with their last reader. A work that gives back more than it takes runs
    as soon as it can, and so does one that makes little, for what it makes way for; others in the program's order.
    """
    return _Schedule(works, sizes).run()


class _Schedule:
    def __init__(self, works: Sequence[LoopStep], sizes: Mapping[int, int]) -> None:
        makers = {root: work for work in works for root in work.makes}
        self.sizes = sizes
        self.numbers = {work: number for number, work in enumerate(works)}
        self.works = works
        self.missing = {work: {makers[root] for root in work.reads if root in makers} for work in works}
        self.users: dict[LoopStep, list[LoopStep]] = {work: [] for work in works}
        self.readers: dict[int, set[LoopStep]] = {}
        for work in works:
            for source in self.missing[work]:
                self.users[source].append(work)
            for root in work.reads:
                self.readers.setdefault(root, set()).add(work)
        self.ready: list[tuple[bool, int, int, int]] = []

    def run(self) -> list[LoopStep]:
        for work in self.works:
            self._offer(work)
        ordered: dict[LoopStep, None] = {}
        while self.ready:
            work = self.works[heapq.heappop(self.ready)[-1]]
            if work not in ordered:
                ordered[work] = None
                self._done(work)
        assert len(ordered) == len(self.works), "groups depend on each other"
        return list(ordered)

    def _offer(self, work: LoopStep) -> None:
        """Put work whose sources are made among what is ready, again where it was and has become cheap."""
        if not self.missing[work]:
            late = not self._is_cheap(work)
            heapq.heappush(self.ready, (late, work.last, work.first, self.numbers[work]))

    def _is_cheap(self, work: LoopStep) -> bool:
        read = [(self.sizes.get(root, 0), len(self.readers[root]) == 1) for root in work.reads]
        made = sum(self.sizes.get(root, 0) for root in work.makes)
        return made < sum(size for size, is_last in read if is_last) or SMALL * made <= sum(
            size for size, _ in read
        )

    def _done(self, work: LoopStep) -> None:
        for root in work.reads:
            readers = self.readers[root]
            readers.discard(work)
            if len(readers) == 1:
                self._offer(next(iter(readers)))
        for user in self.users[work]:
            self.missing[user].discard(work)
            self._offer(user)
