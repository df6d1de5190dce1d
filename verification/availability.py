"""Availability on demand: who doubts that a contribution is still served pays to see a chunk. (SPEC.md 4.13)"""

from verification import merkle
from verification.arithmetic.places import MAX_DIMENSIONS
from verification.debts import ChunkDebt
from verification.digest import tagged
from verification.effects import Effect, Paid, Payment
from verification.errors import BadEvidence, Refused
from verification.grid import Grid, open_blocks
from verification.library import Now
from verification.membership import get_member, settle_debt, suspend
from verification.money import credit, pay_stake
from verification.rounds import get_round
from verification.signed import Said
from verification.state import Demanded, Phase, Standing, State, Watch
from verification.statements import Chunk, Demand
from verification.tensors import ITEM_BYTES, Bundle, bundle_of_root, tensor_digest
from verification.units import NOTHING, Address, Amount, Count, Digest, Millis, Round


def process_demand(state: State, said: Said[Demand], now: Now) -> list[Effect]:
    """Take the price and draw a chunk from the ledger's head, which the sender alone can steer. (SPEC.md 4.13)

    Raises Refused where nobody has promised to serve, one is demanded already, or the sender cannot pay.
    """
    sender, body = said.sender, said.body
    worked = get_round(state, body.round)
    if worked.phase not in (Phase.SEAL, Phase.SEALED) or not holders(state, body.round, body.worker):
        raise Refused("nobody has promised to serve this contribution")
    session = state.sessions.get(body.round)
    if not state.is_recent(body.round) and (session is None or session.watch is Watch.DONE):
        raise Refused("the promise to serve this contribution has run out")
    if any((d.round, d.worker) == (body.round, body.worker) for d in state.demands if not d.is_met):
        raise Refused("a chunk of this contribution is demanded already")
    price = state.manifest.money.chunk_price
    pay_stake(state, sender, price)
    deadline = Millis(now.time + state.manifest.windows.opening)
    seed = tagged("demand", state.head, sender)
    state.demands.append(Demanded(len(state.demands), body.round, body.worker, sender, price, seed, deadline))
    return []


def process_chunk(state: State, said: Said[Chunk], now: Now) -> list[Effect]:
    """Check a chunk against the commitment; the first to show it is paid, and all attesters are free. (SPEC.md 4.13)

    Half of the price is burned, or a demand that its own sender answers would cost nothing.

    Raises Refused for strangers and what is not demanded, BadEvidence for another chunk.
    """
    sender, body = said.sender, said.body
    get_member(state, sender)
    if not body.demand < len(state.demands) or state.demands[body.demand].is_met:
        raise Refused("no such chunk is demanded")
    demand = state.demands[body.demand]
    commit = state.rounds[demand.round].commits[demand.worker]
    check_chunk(demand.seed, commit.contribution.digest, body)
    demand.is_met = True
    paid, burned = Amount(demand.price // 2), Amount(demand.price - demand.price // 2)
    demand.price = NOTHING
    credit(state, sender, paid)
    state.burned = Amount(state.burned + burned)
    effects: list[Effect] = [Paid(sender, paid, Payment.CHUNK)] if paid else []
    for holder in holders(state, demand.round, demand.worker):
        effects += settle_debt(state, state.members[holder], ChunkDebt(demand.number))
    return effects


def _unmet(state: State) -> list[Demanded]:
    return [demand for demand in state.demands if not demand.is_met and not demand.is_overdue]


def demand_ends(state: State) -> Millis | None:
    """The end of the opening window of a demand that nobody has met."""
    return min((demand.deadline for demand in _unmet(state)), default=None)


def void_demand(state: State) -> list[Effect]:
    """Its price goes back, and who attested the contribution is suspended. (SPEC.md 4.13)"""
    demand = next(demand for demand in _unmet(state) if demand.deadline <= state.now)
    demand.is_overdue = True
    effects = _give_back(state, demand)
    for holder in holders(state, demand.round, demand.worker):
        effects += suspend(state, state.members[holder], ChunkDebt(demand.number), state.now)
    return effects


def close_demands(state: State) -> list[Effect]:
    """Give back what open demands hold when the run ends, prices and members: they do not hold it up. (SPEC.md 4.13)"""
    effects = [effect for demand in state.demands if demand.price for effect in _give_back(state, demand)]
    for member in [state.members[address] for address in sorted(state.debtors)]:
        for owed in list(member.owes):
            effects += settle_debt(state, member, owed)
    return effects


def _give_back(state: State, demand: Demanded) -> list[Effect]:
    price, demand.price = demand.price, NOTHING
    credit(state, demand.payer, price)
    return [Paid(demand.payer, price, Payment.CHUNK)]


def holders(state: State, number: Round, worker: Address) -> list[Address]:
    """Return who attested a contribution and is not excluded."""
    attests = state.rounds[number].attests
    return [
        member
        for member, held in sorted(attests.items())
        if worker in held and state.members[member].standing is not Standing.EXCLUDED
    ]


def show_chunk(number: int, seed: Digest, bundle: Bundle) -> Chunk:
    """Return the demanded chunk of a bundle: one block of one tensor."""
    count = len(bundle.tensors)
    place = _draw(seed, b"tensor", count)
    tensor = bundle.tensors[place]
    path = merkle.path("bundle", [tensor_digest(part) for part in bundle.tensors], place)
    drawn = _block(seed, Grid(tensor.dtype, tuple(map(int, tensor.shape))))
    block = None if drawn is None else open_blocks(tensor, [drawn])[0]
    return Chunk(Count(number), Count(count), tensor.dtype, tensor.shape, block, path)


def check_chunk(seed: Digest, contribution: Digest, chunk: Chunk) -> None:
    """Raise BadEvidence unless this is the chunk that `seed` draws from the contribution."""
    if chunk.count < 1 or chunk.dtype not in ITEM_BYTES or len(chunk.shape) > MAX_DIMENSIONS:
        raise BadEvidence("a contribution has a tensor")
    grid = Grid(chunk.dtype, tuple(map(int, chunk.shape)))
    place, drawn, block = _draw(seed, b"tensor", chunk.count), _block(seed, grid), chunk.block
    if drawn is None or block is None:
        if drawn is not None or block is not None:
            raise BadEvidence("a tensor opens by the block that was drawn, an empty one by none")
        digest = grid.empty
    elif (block.row, block.block) != drawn:
        raise BadEvidence("a tensor opens by the block that was drawn")
    else:
        digest = grid.digest_of_block(drawn, block.data, block.in_row, block.in_tensor)
    root = merkle.root_of_path("bundle", digest, place, chunk.count, chunk.path)
    if bundle_of_root(chunk.count, root) != contribution:
        raise BadEvidence("the chunk does not belong to the contribution")


def _block(seed: Digest, grid: Grid) -> tuple[int, int] | None:
    """Return the (row, block) that a seed draws; None of a tensor without numbers."""
    return divmod(_draw(seed, b"block", grid.rows * grid.blocks), grid.blocks) if grid.numbers else None


def _draw(seed: Digest, what: bytes, count: int) -> int:
    return int.from_bytes(tagged("chunk", seed, what), "big") % count
