"""The C text of groups: one function per group, equal functions written once.

Strict C is the point: every operation of an operator's rule is one IEEE or integer operation of the language, compiled
without contraction or any other freedom, so vector width and threads cannot change a bit.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib import resources

from trainer.exact.sums import fixed_point_bits
from trainer.programs.kernels import C_TYPES
from trainer.programs.loops import layouts
from trainer.programs.loops.groups import FULL, REDUCE, ROW, Group, GroupNode
from trainer.programs.loops.layouts import Access
from trainer.programs.operators import OPERATORS
from verification.arithmetic import constants
from verification.tensors import ITEM_BYTES

BLOCK = 256
"""Columns that one thread reduces at a time."""


def prelude() -> str:
    """Return the functions that every kernel may call, with the law's constants."""
    polynomials = ("QUARTER_EXP2", "EXP2_MINUS_1", "LOG_TAIL", "SINE", "ERF_ABOVE", "ERF_BELOW")
    lines = [f"#define {name} {getattr(constants, name).hex()}" for name in ("LOG2_E", "LN_2", "INVERSE_PI")]
    lines += [f"#define PI_PIECE_{place} {piece.hex()}" for place, piece in enumerate(constants.PI_PIECES)]
    lines.append(f"#define ERF_LIMIT_F ((float){constants.ERF_LIMIT!r})")
    for name in polynomials:
        head, *rest = getattr(constants, name)
        text = f"x * {head.hex()}"
        for coefficient in rest[:-1]:
            text = f"({text} + {coefficient.hex()}) * x"
        lines.append(f"static inline double HORNER_{name}(double x) {{ return {text} + {rest[-1].hex()}; }}")
    return (
        "\n".join(lines)
        + "\n"
        + resources.files("trainer.programs.loops").joinpath("prelude.h").read_text("utf-8")
    )


Call = tuple[str, tuple[int, ...]]
"""The name of a group's function and the buffers that it is given, in their order."""


def write(groups: Sequence[Group], outputs: Iterable[int], over: Mapping[int, int]) -> tuple[str, list[Call]]:
    """Return the text of all functions, and the call of each group.

    A function takes the table of buffers, the places of its own in it and a number of threads; it returns whether a
    check failed. `outputs` are members whose floats must be finite, `over` names the input whose buffer may be that of
    an output too (`goes_over`).
    """
    finite, parts = set(outputs), [prelude()]
    names: dict[str, str] = {}
    calls: list[Call] = []
    for group in groups:
        shared = {buffer for number in group.kept if number in over for buffer in (number, over[number])}
        writer = _Column(group, finite) if group.depth else _Rows(group, finite, shared)
        body = writer.text()
        if body not in names:
            names[body] = f"k{len(names)}"
            parts.append(f"int {names[body]}(void *const *slots, const int *at, int threads) {body}")
        calls.append((names[body], tuple(writer.buffers)))
    return "\n".join(parts), calls


def goes_over(group: Group, number: int, root: int) -> bool:
    """Return whether a group may write a member over a buffer that it reads: each element after its last reading."""
    member = group.members[number]
    return not group.depth and member.kind == FULL and _Rows(group, set()).reads_before(number, root)


class _Writer:
    """Numbers the buffers of a group and writes their declarations."""

    def __init__(self, group: Group, finite: set[int], shared: Collection[int] = ()) -> None:
        self.group = group
        self.finite = finite
        self.shared = shared
        self.buffers: list[int] = []
        self.local = {number: place for place, number in enumerate(group.members)}

    def buffer(self, number: int) -> int:
        """Return the place of a buffer among the function's."""
        if number not in self.buffers:
            self.buffers.append(number)
        return self.buffers.index(number)

    def declarations(self, dtypes: dict[int, str]) -> list[str]:
        """Return a typed pointer per buffer; what the group makes comes without const."""
        lines = []
        for place, number in enumerate(self.buffers):
            const = "" if number in self.group.kept else "const "
            lines.append(
                f"{const}{C_TYPES[dtypes[number]]} *{self.alone(number)}b{place} = slots[at[{place}]];"
            )
        return lines

    def alone(self, number: int) -> str:
        """Return the word that tells the compiler that nothing else points into a buffer, where that is so."""
        return "" if number in self.shared else "restrict "


class _Rows(_Writer):
    """Rows of elements: loops over one row, each ended by what it reduces to."""

    def __init__(self, group: Group, finite: set[int], shared: Collection[int] = ()) -> None:
        super().__init__(group, finite, shared)
        self.rows, self.columns = group.rows, group.columns
        self.ready: dict[int, int] = {}
        self.loops: dict[int, list[int]] = {}
        self.later: set[int] = set()
        self._schedule()
        self.dtypes: dict[int, str] = {}
        for member in group.members.values():
            self.dtypes[member.number] = member.node.dtype
            for operand, dtype in zip(member.operands, member.dtypes, strict=True):
                self.dtypes[operand.root] = dtype
        self.pointers: dict[tuple[int, Access], str] = {}
        self.heads: list[str] = []

    def _schedule(self) -> None:
        """Give each member its loop: values of a row that a reduction makes exist only after it."""
        for number, member in self.group.members.items():
            loop = max((self.ready.get(operand.root, 0) for operand in member.operands), default=0)
            wait = 0 if member.kind != REDUCE else len(_passes(member))
            self.ready[number] = loop + wait
            used = range(loop, loop + max(wait, 1))
            self.loops.setdefault(loop, []).append(number)
            for operand in member.operands:
                source = self.group.members.get(operand.root)
                if source is not None and source.kind == FULL and used[-1] > self.ready[operand.root]:
                    self.later.add(operand.root)

    def reads_before(self, number: int, root: int) -> bool:
        """Return whether each element of a buffer is read for the last time before a member's at its place is kept."""
        order = {each: place for place, each in enumerate(self.group.members)}
        kept_at = self.ready[number], order[number]
        for member in self.group.members.values():
            for operand in member.operands:
                if operand.root == root:
                    found = self.group.access(member, operand)
                    last = self.ready[member.number] - (member.kind == REDUCE)
                    if member.kind == ROW or found is None or not found.is_full(self.rows, self.columns):
                        return False
                    if (last, order[member.number]) > kept_at:
                        return False
        return True

    def text(self) -> str:
        """Return the function's body."""
        count = 1 + max(self.ready.values())
        body = [self._loop(loop) for loop in range(count)]
        for number in self.group.kept:
            self._pointer(number)
        held, room = self._held()
        lines = [
            "{", "int bad = 0;", *self.declarations(self.dtypes),
            "#ifdef _OPENMP",
            "#pragma omp parallel num_threads(threads) reduction(|:bad) if(threads > 1)",
            "#endif",
            "{",
            f"char *room = malloc({room});" if room else "",
            "#ifdef _OPENMP",
            "#pragma omp for schedule(static)",
            "#endif",
            f"for (long r = 0; r < {self.rows}; r++) {{",
            "if (!room) { bad = 1; continue; }" if room else "",
            *self.heads, *held, *body, "}",
            "free(room);" if room else "",
            "}", "return bad;", "}",
        ]  # fmt: skip
        return "\n".join(line for line in lines if line) + "\n"

    def _held(self) -> tuple[list[str], int]:
        """Return declarations of a row of each value that a later loop reads, and the bytes off the stack for them."""
        held = [n for n in self.group.members if n in self.later and n not in self.group.kept]
        size = self.columns * sum(ITEM_BYTES[self.dtypes[n]] for n in held)
        if size <= STACK:
            return [f"{C_TYPES[self.dtypes[n]]} s{self.local[n]}[{self.columns}];" for n in held], 0
        wide = 8 * self.columns
        return [
            f"{C_TYPES[self.dtypes[n]]} *restrict s{self.local[n]} = (void *)(room + {place * wide});"
            for place, n in enumerate(held)
        ], wide * len(held)

    def _loop(self, loop: int) -> str:
        before, inside, after = [], [], []
        for number, member in self.group.members.items():
            if member.kind == ROW and self.ready[number] == loop:
                before += self._computed(member, "0")
            elif member.kind == FULL and self.ready[number] == loop:
                inside += self._computed(member, "c")
            elif member.kind == REDUCE:
                place = loop - (self.ready[number] - len(_passes(member)))
                if 0 <= place < len(_passes(member)):
                    start, each, end = self._reduced(member, place, loop)
                    before += start
                    inside += each
                    after += end
        if inside:
            inside = [f"INDEPENDENT for (long c = 0; c < {self.columns}; c++) {{", *inside, "}"]
        return "\n".join([*before, *inside, *after])

    def _computed(self, member: GroupNode, index: str) -> list[str]:
        loop = self.ready[member.number]
        operands = [self._read(member, place, loop) for place in range(len(member.operands))]
        name, dtype = f"v{self.local[member.number]}", C_TYPES[member.node.dtype]
        lines = [f"const {dtype} {name} = {_expression(member, operands)};"]
        # What ends the step; the caller then runs the nodes one by one to say which and why.
        if ends := OPERATORS[member.node.operator].ends:
            lines.append(f"bad |= {ends.format(*operands)};")
        return lines + self._stored(member, name, index)

    def _stored(self, member: GroupNode, name: str, index: str) -> list[str]:
        number, lines = member.number, []
        if number in self.finite and member.node.dtype == "float32":
            lines.append(f"bad |= infinite({name});")
        if number in self.group.kept:
            lines.append(f"{self._pointer(number)}[{index}] = {name};")
        elif number in self.later:
            lines.append(f"s{self.local[number]}[{index}] = {name};")
        return lines

    def _reduced(self, member: GroupNode, place: int, loop: int) -> tuple[list[str], list[str], list[str]]:
        value, name = self._read(member, 0, loop), f"v{self.local[member.number]}"
        start, each, end = (
            [line.format(v=value, n=name, **_numbers(member, self.columns)) for line in lines]
            for lines in _passes(member)[place]
        )
        if place == len(_passes(member)) - 1:
            end += self._stored(member, name, "0")
        return start, each, end

    def _read(self, member: GroupNode, place: int, loop: int) -> str:
        operand = member.operands[place]
        source = self.group.members.get(operand.root)
        if source is not None:
            number = operand.root
            if source.kind != FULL or self.ready[number] == loop:
                return f"v{self.local[number]}"
            return f"{self._pointer(number)}[c]" if number in self.group.kept else f"s{self.local[number]}[c]"
        found = self.group.access(member, operand)
        assert found is not None
        return self._loaded(operand.root, found)

    def _loaded(self, root: int, found: Access) -> str:
        if (root, found) not in self.pointers:
            name = f"p{len(self.pointers)}"
            self.pointers[root, found] = name
            dtype = C_TYPES[self.dtypes[root]]
            start = f"b{self.buffer(root)} + {_offset(found, self.rows)}"
            if found.stride == 0:
                self.heads.append(f"const {dtype} {name} = *({start});")
            else:
                self.heads.append(f"const {dtype} *{self.alone(root)}{name} = {start};")
        name = self.pointers[root, found]
        return (
            name
            if found.stride == 0
            else f"{name}[c]"
            if found.stride == 1
            else f"{name}[c * {found.stride}]"
        )

    def _pointer(self, number: int) -> str:
        name = f"q{self.local[number]}"
        wide = self.group.members[number].kind == FULL
        line = (
            f"{C_TYPES[self.dtypes[number]]} *{self.alone(number)}{name} = b{self.buffer(number)} + r"
            f"{f' * {self.columns}' if wide else ''};"
        )
        if line not in self.heads:
            self.heads.append(line)
        return name


class _Column(_Writer):
    """One reduction over the middle dimension of three, some columns at a time."""

    def text(self) -> str:
        """Return the function's body."""
        (member,) = self.group.members.values()
        rows, depth, columns = self.group.rows, self.group.depth, self.group.columns
        found = layouts.column_access(member.operands[0].layout, depth, columns)
        assert found is not None
        place, stride = found
        source, target = self.buffer(member.operands[0].root), self.buffer(member.number)
        blocks = -(-columns // BLOCK)
        numbers = _numbers(member, depth)
        dtypes = {member.operands[0].root: "float32", member.number: member.node.dtype}
        lines = [
            "{", "int bad = 0;", *self.declarations(dtypes),
            "#ifdef _OPENMP",
            "#pragma omp parallel for schedule(static) num_threads(threads) reduction(|:bad) if(threads > 1)",
            "#endif",
            f"for (long i = 0; i < {rows * blocks}; i++) {{",
            f"const long r = i / {blocks}, start = i % {blocks} * {BLOCK};",
            f"const long n = {columns} - start < {BLOCK} ? {columns} - start : {BLOCK};",
            f"const float *restrict p = b{source} + {_offset(place, rows)} + start;",
            f"{C_TYPES[member.node.dtype]} *restrict q = b{target} + r * {columns} + start;",
            f"int32_t most[{BLOCK}] = {{0}};",
            f"for (long k = 0; k < {depth}; k++) INDEPENDENT for (long c = 0; c < n; c++) {{",
            f"const int32_t m = magnitude(p[k * {stride} + c]); most[c] = m > most[c] ? m : most[c]; }}",
            "for (long c = 0; c < n; c++) bad |= most[c] >= INFINITE;",
        ]  # fmt: skip
        if member.node.operator == "row_exponent":
            lines.append("for (long c = 0; c < n; c++) q[c] = (int16_t)exponent_of(most[c]);")
        else:
            lines += [
                f"double scale[{BLOCK}]; int64_t sum[{BLOCK}] = {{0}};",
                f"for (long c = 0; c < n; c++) scale[c] = power_of_two({numbers['bits']} - exponent_of(most[c]));",
                f"for (long k = 0; k < {depth}; k++) INDEPENDENT for (long c = 0; c < n; c++)",
                f"sum[c] += bits64((double)p[k * {stride} + c] * scale[c] + MAGIC) - MAGIC_BITS;",
                "for (long c = 0; c < n; c++) {",
                f"const double s = (double)sum[c] * power_of_two(exponent_of(most[c]) - {numbers['bits']});",
                f"q[c] = (float)(s{numbers['over']});",
                "bad |= infinite(q[c]);" if member.number in self.finite else "",
                "}",
            ]
        return "\n".join([*(line for line in lines if line), "}", "return bad;", "}"]) + "\n"


STACK = 1 << 17
"""Bytes of a row's values that a thread may hold on its stack."""

Lines = tuple[list[str], list[str], list[str]]
"""Before a loop, in it, after it; {v} is the element and {n} the result's name."""

_LARGEST: Lines = (
    ["int32_t {n}_m = 0;"],
    ["{{ const int32_t m = magnitude({v}); {n}_m = m > {n}_m ? m : {n}_m; }}"],
    ["bad |= {n}_m >= INFINITE;"],
)
_SUMMED: Lines = (
    [
        "const int32_t {n}_e = exponent_of({n}_m);",
        "const double {n}_s = power_of_two({bits} - {n}_e);",
        "int64_t {n}_t = 0;",
    ],
    ["{n}_t += bits64((double)({v}) * {n}_s + MAGIC) - MAGIC_BITS;"],
    ["const float {n} = (float)((double){n}_t * power_of_two({n}_e - {bits}){over});"],
)  # fmt: skip
_COUNTED: Lines = (["int64_t {n} = 0;"], ["{n} += {v};"], [])
_EXPONENT: Lines = (
    _LARGEST[0],
    _LARGEST[1],
    [*_LARGEST[2], "const int16_t {n} = (int16_t)exponent_of({n}_m);"],
)
_GREATEST: Lines = (
    ["int32_t {n}_m = INT32_MIN;"],
    ["{{ const int32_t m = ordered({v}); {n}_m = m > {n}_m ? m : {n}_m; bad |= ({v}) != ({v}); }}"],
    ["const float {n} = unordered({n}_m);"],
)


def _passes(member: GroupNode) -> Sequence[Lines]:
    if member.node.operator == "row_exponent":
        return (_EXPONENT,)
    if member.node.operator == "amax":
        return (_GREATEST,)
    return (_LARGEST, _SUMMED) if member.dtypes[0] == "float32" else (_COUNTED,)


def _numbers(member: GroupNode, count: int) -> dict[str, object]:
    over = f" / {float(count)}" if member.node.operator == "mean" else ""
    return {"bits": fixed_point_bits(count), "over": over}


def _expression(member: GroupNode, operands: Sequence[str]) -> str:
    text = OPERATORS[member.node.operator].c_text(member.node)
    return text.format(*(f"({operand})" for operand in operands))


def _offset(found: Access, rows: int) -> str:
    """Return the place of row r's first element."""
    terms, below = [str(found.offset)] if found.offset else [], rows
    for size, stride in found.outer:
        below //= size
        place = "r" if below == 1 else f"(r / {below})"
        if size * below != rows:
            place = f"({place} % {size})"
        if stride:
            terms.append(f"{place} * {stride}")
    return " + ".join(terms) or "0"
