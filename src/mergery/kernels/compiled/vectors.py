"""Operations on several entries at once, for loops that the compiler does not turn into vectors by itself: lists of entries,
and counts under several bounds. They are written in LLVM's instructions, which it translates for any processor.

Arrays that they read are padded to whole vectors: see `PADDING`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from mergery.kernels.compiled.jit import emitted

EIGHT = 8
"""Entries of 32 bits that are worked on at once."""

SIXTEEN = 16
"""Entries of 16 bits that are worked on at once."""

BYTES = 32
"""Entries of 8 bits that are worked on at once."""

PADDING = 32
"""Their length is a multiple of so many entries. What stands behind the last must never count: see `scratch.make_scratch`."""

BOUNDS = 4
"""Bounds under which bytes are counted at once: more of them would not stay in registers."""

_I8, _I16, _I32, _I64, _F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64), ir.FloatType()


def _vector(kind: Any, lanes: int, values: Any) -> Any:
    """A constant vector."""
    return ir.Constant(ir.VectorType(kind, lanes), values if isinstance(values, list) else [values] * lanes)


def _fill(builder: Any, value: Any, lanes: int) -> Any:
    """A vector of one value."""
    nothing = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    return builder.shuffle_vector(builder.insert_element(nothing, value, _I32(0)), nothing, _vector(_I32, lanes, 0))


def _at(builder: Any, array: Any, place: Any, kind: Any, lanes: int) -> Any:
    """Where a vector of an array begins, at any entry."""
    return builder.bitcast(builder.gep(array, [place]), ir.VectorType(kind, lanes).as_pointer())


def _load(builder: Any, array: Any, place: Any, kind: Any, lanes: int) -> Any:
    return builder.load(_at(builder, array, place, kind, lanes), align=kind.width // 8 if kind != _F32 else 4)


def _total(builder: Any, vector: Any, lanes: int) -> Any:
    """The sum of a vector of int32."""
    kind = ir.FunctionType(_I32, [ir.VectorType(_I32, lanes)])
    name = f"llvm.vector.reduce.add.v{lanes}i32"
    reduce = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(reduce, [vector])


def _loop(builder: Any, first: Any, last: Any, step: int, sums: list[Any], add: Any) -> list[Any]:
    """For each place from `first` to `last`: `sums = add(place, sums)`."""
    before = builder.block
    head, body, done = (builder.append_basic_block(name) for name in ("head", "body", "done"))
    builder.branch(head)
    builder.position_at_end(head)
    place = builder.phi(_I64)
    place.add_incoming(first, before)
    now = [builder.phi(one.type) for one in sums]
    for phi, one in zip(now, sums, strict=True):
        phi.add_incoming(one, before)
    builder.cbranch(builder.icmp_signed("<", place, last), body, done)
    builder.position_at_end(body)
    for phi, one in zip(now, add(place, now), strict=True):
        phi.add_incoming(one, builder.block)
    place.add_incoming(builder.add(place, _I64(step)), builder.block)
    builder.branch(head)
    builder.position_at_end(done)
    return now


@emitted("uint64", "array", "array", "int64", "uint32", "uint32")
def contested(builder: Any, coins: Any, values: Any, place: Any, low: Any, span: Any) -> Any:
    """Of eight entries from `place` on, those whose coin lies in [low, low + span) and that are not zero: bits."""
    beyond = builder.sub(_load(builder, coins, place, _I32, EIGHT), _fill(builder, low, EIGHT))
    inside = builder.icmp_unsigned("<", beyond, _fill(builder, span, EIGHT))
    entries = _load(builder, values, place, _F32, EIGHT)
    chosen = builder.and_(inside, builder.fcmp_unordered("!=", entries, _vector(_F32, EIGHT, 0.0)))
    return builder.zext(builder.bitcast(chosen, _I8), _I64)


@emitted("uint64", "array", "int64", "int8")
def equal(builder: Any, places: Any, place: Any, value: Any) -> Any:
    """Of eight bytes from `place` on, those of a value: bits."""
    same = builder.icmp_unsigned("==", _load(builder, places, place, _I8, EIGHT), _fill(builder, value, EIGHT))
    return builder.zext(builder.bitcast(same, _I8), _I64)


@emitted("int64", "array", "int64", "uint64", "int64")
def append(builder: Any, listed: Any, count: Any, bits: Any, place: Any) -> Any:
    """Write the places of the bits behind the first `count` places of a list (uint32), and up to eight that mean nothing.
    Returns how many there are now."""
    row = builder.load(builder.gep(_table(builder.module), [_I64(0), bits]))
    places = builder.add(
        builder.zext(row, ir.VectorType(_I32, EIGHT)), _fill(builder, builder.trunc(place, _I32), EIGHT)
    )
    builder.store(places, _at(builder, listed, count, _I32, EIGHT), align=4)
    return builder.add(count, builder.ctpop(bits))


def _table(module: Any) -> Any:
    """For each byte the places of its bits."""
    if "places_of_bits" in module.globals:
        return module.globals["places_of_bits"]
    kind = ir.ArrayType(ir.VectorType(_I8, EIGHT), 256)
    rows = [[place for place in range(EIGHT) if bits >> place & 1] for bits in range(256)]
    table: Any = ir.GlobalVariable(module, kind, "places_of_bits")
    table.linkage, table.global_constant = "internal", True
    table.initializer = ir.Constant(kind, [_vector(_I8, EIGHT, (row + [0] * EIGHT)[:EIGHT]) for row in rows])
    return table


def _count_below(builder: Any, array: Any, lanes: int, n: Any, place: Any, before: Any, behind: Any) -> Any:
    low, high = _fill(builder, before, lanes), _fill(builder, behind, lanes)

    def add(at: Any, bound: Any, total: Any) -> Any:
        below = builder.icmp_signed("<", _load(builder, array, at, before.type, lanes), bound)
        return builder.sub(total, builder.sext(below, total.type))

    def run(first: Any, last: Any, bound: Any, sums: list[Any]) -> list[Any]:
        """Four vectors at a time, then what is left one by one."""
        rest = builder.add(first, builder.and_(builder.sub(last, first), _I64(-len(sums) * lanes)))

        def several(at: Any, sums: list[Any]) -> list[Any]:
            return [add(builder.add(at, _I64(v * lanes)), bound, one) for v, one in enumerate(sums)]

        sums = _loop(builder, first, rest, len(sums) * lanes, sums, several)
        return _loop(builder, rest, last, lanes, sums, lambda at, sums: [add(at, bound, sums[0]), *sums[1:]])

    middle = builder.and_(place, _I64(-lanes))
    sums = run(_I64(0), middle, low, [_vector(before.type, lanes, 0)] * 4)
    steps = _fill(builder, builder.trunc(builder.sub(place, middle), before.type), lanes)
    earlier = builder.icmp_signed("<", _vector(before.type, lanes, list(range(lanes))), steps)
    sums[0] = add(middle, builder.select(earlier, low, high), sums[0])
    sums = run(builder.add(middle, _I64(lanes)), n, high, sums)
    wide = ir.VectorType(_I32, lanes)
    parts = [one if one.type == wide else builder.zext(one, wide) for one in sums]
    one, two, three, four = parts
    return builder.zext(_total(builder, builder.add(builder.add(one, two), builder.add(three, four)), lanes), _I64)


@emitted("int64", "array", "int64", "int64", "int32", "int32")
def count_below(builder: Any, array: Any, n: Any, place: Any, before: Any, behind: Any) -> Any:
    """How many entries, int32, are below a bound: `before` for those before `place`, `behind` for it and those behind it.
    n: a multiple of eight."""
    return _count_below(builder, array, EIGHT, n, place, before, behind)


@emitted("int64", "array", "int64", "int64", "int16", "int16")
def count_short_below(builder: Any, array: Any, n: Any, place: Any, before: Any, behind: Any) -> Any:
    """`count_below` of int16. n: a multiple of sixteen, and less than 2**21: sums of each lane hold no more."""
    return _count_below(builder, array, SIXTEEN, n, place, before, behind)


@emitted("uint64", "array", "int64", "int32")
def having(builder: Any, array: Any, place: Any, mask: Any) -> Any:
    """Of eight entries, int32, from `place` on, those that have bits of a mask: bits."""
    some = builder.and_(_load(builder, array, place, _I32, EIGHT), _fill(builder, mask, EIGHT))
    found = builder.icmp_unsigned("!=", some, _vector(_I32, EIGHT, 0))
    return builder.zext(builder.bitcast(found, _I8), _I64)


@emitted("none", "array", "int64", "int64", "int8", "int8", "array")
def count_bytes(builder: Any, places: Any, first: Any, last: Any, bound: Any, step: Any, counts: Any) -> None:
    """Add to each of four counts (int32) how many bytes from `first` to `last`, at most 255 vectors, are below `bound`,
    `bound` + `step`, and so on."""
    bounds = []
    for _ in range(BOUNDS):
        bounds.append(_fill(builder, bound, BYTES))
        bound = builder.add(bound, step)

    def add(at: Any, sums: list[Any]) -> list[Any]:
        entries = _load(builder, places, at, _I8, BYTES)
        return [
            builder.sub(one, builder.sext(builder.icmp_signed("<", entries, bound), one.type))
            for one, bound in zip(sums, bounds, strict=True)
        ]

    sums = _loop(builder, first, last, BYTES, [_vector(_I8, BYTES, 0)] * BOUNDS, add)
    for place, one in enumerate(sums):
        where = builder.gep(counts, [_I64(place)])
        total = _total(builder, builder.zext(one, ir.VectorType(_I32, BYTES)), BYTES)
        builder.store(builder.add(builder.load(where), total), where)
