"""Toy programs of two parameters, whole and in two shards: what crews train in simulations. (SPEC.md 4.17)

State: [first int64[WIDTH], second int64[WIDTH], and a momentum float32[WIDTH] of each]. A step makes a number `forth`
of the first parameter and its tokens, and of that and the second a number `back`; each parameter moves by one of them.
Shard 0 holds the first and gives `forth`, shard 1 holds the second and gives `back`.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

from simulator.toy import PROGRAMS, RECORD, RECORDS, WIDTH, Draft, Value, minimal, reference, tensor, vector
from verification.manifest import Crossing, Cut, Manifest, ProgramRef, Programs, Shard, WorkUnits
from verification.program import Program, digest_of_program, work_units
from verification.tensors import Bundle
from verification.units import Count

NAMES = ("first", "second")
ODD = tuple(range(1, 2 * WIDTH, 2))
START = Bundle(
    (
        vector(range(1, WIDTH + 1)), vector(range(2, WIDTH + 2)),
        *(tensor([0.0] * WIDTH, "float32", (WIDTH,)) for _ in NAMES),
    )
)  # fmt: skip


def with_crews(**changes: Any) -> Manifest:
    """Return `minimal`'s manifest for the toy of two parameters, with one cut; `changes` as there."""
    whole = minimal(**{"leaf_every": Count(1), "max_steps": Count(3), **changes})
    sizes = int(whole.work.max_steps), int(whole.work.batch)
    programs, cut = _known(*sizes, int(whole.work.slots))
    units = _units([PROGRAMS[ref.digest] for ref in (programs.prologue, programs.inner, programs.epilogue)])
    return dataclasses.replace(whole, programs=programs, units=units, start=reference(START), cuts=(cut,))


@functools.cache
def _known(max_steps: int, batch: int, slots: int) -> tuple[Programs, Cut]:
    """Return references to the whole programs, and the cut: executors know all from then on."""
    both = range(len(NAMES))
    programs = [
        _prologue(max_steps, batch, both),
        _inner(max_steps, batch),
        _epilogue(max_steps, batch, both),
    ]
    refs = [_known_as(each) for each in (*programs, _outer(slots + 1))]
    shards = []
    for place in both:
        own = [
            _prologue(max_steps, batch, [place]),
            _shard(max_steps, batch, place),
            _epilogue(max_steps, batch, [place]),
        ]
        prologue, inner, epilogue = map(_known_as, own)
        shards.append(Shard(prologue, inner, epilogue, _units(own), (Count(place),)))
    crossings = Crossing(Count(0), (Count(1),)), Crossing(Count(1), (Count(0),))
    return Programs(*refs), Cut(tuple(shards), crossings)


def _known_as(program: Program) -> ProgramRef:
    digest = digest_of_program(program)
    PROGRAMS[digest] = program
    return ProgramRef(digest, digest)


def _units(programs: Sequence[Program]) -> WorkUnits:
    return WorkUnits(*(Count(work_units(program)) for program in programs))


def _prologue(max_steps: int, batch: int, held: Sequence[int]) -> Program:
    d = Draft("prologue")
    params = [d.port(NAMES[place]) for place in held]
    for place in held:
        d.port(f"momentum/{NAMES[place]}", dtype="float32")
    data = d.port("data", (RECORDS, RECORD), "uint8")
    index, number = d.port("index", (max_steps, batch)), d.port("round", ())
    tokens = d.emit("gather", data, index, shape=(max_steps, batch, RECORD))
    named = dict(zip((NAMES[place] for place in held), params, strict=True))
    return d.finish(**named, step=d.emit("multiply", number, d.constant(0)), tokens=tokens)


def _forth(d: Draft, first: Value, step: Value, tokens: Value, batch: int) -> Value:
    """Return the step's tokens times the first parameter, summed, an int64 0-d below 2^31."""
    column = d.emit("view", d.emit("cast", first, dtype="float32"), shape=(WIDTH, 1))
    seen = d.emit("cast", d.emit("select", tokens, step, shape=(batch, RECORD)), dtype="float32")
    made = d.emit(
        "product",
        *d.quantised(seen, 1),
        *d.quantised(column, 0),
        shape=(batch, 1),
        dtype="float32",
        bits=(14,),
    )
    return d.within_int32(d.emit("cast", d.reduced("sum", made), dtype="int64"))


def _back(d: Draft, second: Value, forth: Value) -> Value:
    return d.within_int32(d.emit("add", forth, d.reduced("sum", second)))


def _moved(d: Draft, param: Value, drive: Value) -> Value:
    moved = d.emit("multiply", drive, d.constant(*ODD), shape=(WIDTH,))
    return d.within_int32(d.emit("subtract", moved, param))


def _inner(max_steps: int, batch: int) -> Program:
    d = Draft("inner")
    first, second, step, tokens = _working(d, max_steps, batch, (0, 1))
    forth = _forth(d, first, step, tokens, batch)
    back = _back(d, second, forth)
    moved = {"first": _moved(d, first, back), "second": _moved(d, second, forth)}
    return d.finish(**moved, step=d.emit("add", step, d.constant(1)), tokens=tokens)


def _shard(max_steps: int, batch: int, place: int) -> Program:
    d = Draft("inner")
    param, step, tokens = _working(d, max_steps, batch, (place,))
    taken = d.port("taken", ())
    given = _forth(d, param, step, tokens, batch) if place == 0 else _back(d, param, taken)
    moved = {NAMES[place]: _moved(d, param, taken)}
    return d.finish(**moved, step=d.emit("add", step, d.constant(1)), tokens=tokens, given=given)


def _working(d: Draft, max_steps: int, batch: int, held: Sequence[int]) -> list[Value]:
    params = [d.port(NAMES[place]) for place in held]
    return [*params, d.port("step", ()), d.port("tokens", (max_steps, batch, RECORD), "uint8")]


def _epilogue(max_steps: int, batch: int, held: Sequence[int]) -> Program:
    d = Draft("epilogue")
    starts = [d.port(f"start/{NAMES[place]}") for place in held]
    for place in held:
        d.port(f"momentum/{NAMES[place]}", dtype="float32")
    *params, step, _ = _working(d, max_steps, batch, held)
    deltas = [d.emit("subtract", start, param) for start, param in zip(starts, params, strict=True)]
    sums = [d.reduced("sum", d.emit("absolute", delta), keepdim=1) for delta in deltas]
    norm = functools.reduce(lambda one, other: d.emit("add", one, other), sums)
    named = {f"delta/{NAMES[place]}": delta for place, delta in zip(held, deltas, strict=True)}
    return d.finish(**named, norm=norm, loss=d.emit("add", sums[0], step))


def _outer(slots: int) -> Program:
    d = Draft("outer")
    params = [d.port(name) for name in NAMES]
    momenta = [d.port(f"momentum/{name}", dtype="float32") for name in NAMES]
    deltas = []
    for slot in range(slots):
        deltas.append([d.port(f"delta{slot}/{name}") for name in NAMES])
        d.port(f"norm{slot}", (1,))
        d.port(f"loss{slot}", (1,))
    weights = d.port("weights", (slots,))
    whole = d.emit("cast", d.emit("maximum", d.reduced("sum", weights), d.constant(1)), dtype="float32")
    shares = [
        d.emit("slice", weights, shape=(1,), dim=(0,), start=(slot,), step=(1,), stop=(slot + 1,))
        for slot in range(slots)
    ]
    moved, speeds = {}, {}
    for place, name in enumerate(NAMES):
        parts = [d.emit("multiply", each[place], share) for each, share in zip(deltas, shares, strict=True)]
        summed = functools.reduce(lambda one, other: d.emit("add", one, other), parts)
        mean = d.emit("divide", d.emit("cast", summed, dtype="float32"), whole)
        half = d.emit("multiply", momenta[place], d.constant(0.5, dtype="float32"))
        speeds[f"momentum/{name}"] = d.emit("add", half, mean)
        way = d.emit("cast", speeds[f"momentum/{name}"], dtype="int64")
        moved[name] = d.within_int32(d.emit("subtract", params[place], way))
    return d.finish(**moved, **speeds)
