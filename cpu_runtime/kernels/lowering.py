"""The operations whose best instructions differ from CPU to CPU, as LLVM: int8 dot products and table look-up.

Each function takes an llvmlite builder and values and returns a value. `LOWERINGS[name]` is the (dot, scaled_dot,
nibble_dot, pair_dot, quad_add, in_order, look_up) of a target in cpu.py. Vectors may be longer than a register: they
are worked on in register-long pieces. Conversions from and to 16-bit floats stand here too, for CPUs without an
instruction for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir

I1, I8, I16, I32 = (ir.IntType(bits) for bits in (1, 8, 16, 32))
F16, F32 = ir.HalfType(), ir.FloatType()


def vector(element: ir.Type, length: int) -> ir.VectorType:
    return ir.VectorType(element, length)


def constant(element: ir.Type, values: Sequence[int]) -> ir.Constant:
    return ir.Constant(vector(element, len(values)), list(values))


def call(b: ir.IRBuilder, name: str, result: ir.Type, *args: ir.Value) -> ir.Value:
    """Call an LLVM intrinsic by its full name."""
    function = b.module.globals.get(name)
    if function is None:
        function = ir.Function(b.module, ir.FunctionType(result, [a.type for a in args]), name)
    return b.call(function, args)


def splat(b: ir.IRBuilder, scalar: ir.Value, n: int) -> ir.Value:
    """n copies."""
    nothing = ir.Constant(vector(scalar.type, n), ir.Undefined)
    return b.shuffle_vector(b.insert_element(nothing, scalar, I32(0)), nothing, constant(I32, [0] * n))


def part(b: ir.IRBuilder, v: ir.Value, start: int, count: int, stride: int = 1) -> ir.Value:
    """Elements start, start + stride, ... of a vector."""
    if count == v.type.count:
        return v
    index = [start + stride * i for i in range(count)]
    return b.shuffle_vector(v, ir.Constant(v.type, ir.Undefined), constant(I32, index))


def join(b: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    """Vectors of one length, end to end; a power of two of them."""
    while len(parts) > 1:
        both = constant(I32, range(2 * parts[0].type.count))
        parts = [b.shuffle_vector(x, y, both) for x, y in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def by_pieces(b: ir.IRBuilder, piece_bytes: int, work: Callable[..., ir.Value], *vectors: ir.Value) -> ir.Value:
    """work(...) on each register-long piece of the vectors (all equally many bytes), end to end."""
    total = max(v.type.count * v.type.element.width // 8 for v in vectors)
    n = max(1, total // piece_bytes)
    return join(b, [work(*(part(b, v, i * v.type.count // n, v.type.count // n) for v in vectors)) for i in range(n)])


# --- dot: acc[r] += sum of w[r, j] * x[r, j] over j = 0..3; int8, except that VNNI's w is unsigned ---


def dot_vnni(bits: int) -> Callable[..., ir.Value]:
    def dot(b: ir.IRBuilder, acc: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
        def work(acc: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
            return call(b, f"llvm.x86.avx512.vpdpbusd.{bits}", acc.type, acc, w, x)

        return by_pieces(b, bits // 8, work, acc, w, x)

    return dot


def pairs_avx2(b: ir.IRBuilder, w: ir.Value, x: ir.Value) -> ir.Value:
    """Sums of two products as int16: |x| times w with x's sign; 2 * 127 * 127 = 32258, so nothing saturates."""
    size = call(b, "llvm.abs.v32i8", x.type, x, ir.Constant(I1, 0))
    signed = call(b, "llvm.x86.avx2.psign.b", w.type, w, x)
    return call(b, "llvm.x86.avx2.pmadd.ub.sw", vector(I16, 16), size, signed)


def dot_avx2(b: ir.IRBuilder, acc: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
    ones = constant(I16, [1] * 16)

    def work(acc: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
        return b.add(acc, call(b, "llvm.x86.avx2.pmadd.wd", acc.type, pairs_avx2(b, w, x), ones))

    return by_pieces(b, 32, work, acc, w, x)


def dot_neon(b: ir.IRBuilder, acc: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
    def work(acc: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
        return call(b, "llvm.aarch64.neon.sdot.v4i32.v16i8", acc.type, acc, w, x)

    return by_pieces(b, 16, work, acc, w, x)


def dot_portable(b: ir.IRBuilder, acc: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
    """Of pairs of int16 too: a row has as many numbers as come to each sum."""
    n = acc.type.count
    numbers = w.type.count // n
    for j in range(numbers):
        factors = (b.sext(part(b, v, j, n, numbers), acc.type) for v in (w, x))
        acc = b.add(acc, b.mul(*factors))
    return acc


# --- scaled_dot: acc[r] += (meta[r] >> n) * (start[r] + the dots of pairs (w, x)); meta in each of a row's 4 bytes ---


def scaled(dot: Callable[..., ir.Value]) -> Callable[..., ir.Value]:
    """The scaled sum by way of `dot`."""

    def scaled_dot(
        b: ir.IRBuilder, n: int, acc: ir.Value, start: ir.Value, meta: ir.Value, *pairs: ir.Value
    ) -> ir.Value:
        for w, x in zip(pairs[::2], pairs[1::2], strict=True):
            start = dot(b, start, w, x)
        scale = b.ashr(b.bitcast(meta, acc.type), constant(I32, [24 + n] * acc.type.count))
        return b.add(acc, b.mul(scale, start))

    return scaled_dot


# --- nibble_dot: acc[r] += the dots of pairs (w, x), w in 0..15: the same byte whether it counts as signed or not ---


def each(dot: Callable[..., ir.Value]) -> Callable[..., ir.Value]:
    """One `dot` after another."""

    def nibble_dot(b: ir.IRBuilder, acc: ir.Value, *pairs: ir.Value) -> ir.Value:
        for w, x in zip(pairs[::2], pairs[1::2], strict=True):
            acc = dot(b, acc, w, x)
        return acc

    return nibble_dot


def nibble_dot_avx2(b: ir.IRBuilder, acc: ir.Value, *pairs: ir.Value) -> ir.Value:
    """No signs to move, and room in int16 for all four: 4 * 2 * 15 * 128 = 15360."""
    ones = constant(I16, [1] * 16)

    def work(acc: ir.Value, *pairs: ir.Value) -> ir.Value:
        sums = [
            call(b, "llvm.x86.avx2.pmadd.ub.sw", vector(I16, 16), w, x)
            for w, x in zip(pairs[::2], pairs[1::2], strict=True)
        ]
        total = b.add(b.add(sums[0], sums[1]), b.add(sums[2], sums[3]))
        return b.add(acc, call(b, "llvm.x86.avx2.pmadd.wd", acc.type, total, ones))

    return by_pieces(b, 32, work, acc, *pairs)


# --- pair_dot: acc[r] += w[r, 0] * x[r, 0] + w[r, 1] * x[r, 1], int16 ---


def pair_dot_vnni(bits: int) -> Callable[..., ir.Value]:
    def pair_dot(b: ir.IRBuilder, acc: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
        def work(acc: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
            return call(b, f"llvm.x86.avx512.vpdpwssd.{bits}", acc.type, acc, w, x)

        return by_pieces(b, bits // 8, work, acc, w, x)

    return pair_dot


def pair_dot_avx2(b: ir.IRBuilder, acc: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
    def work(acc: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
        return b.add(acc, call(b, "llvm.x86.avx2.pmadd.wd", acc.type, w, x))

    return by_pieces(b, 32, work, acc, w, x)


# --- quad_add: acc[k] += w[2 k] * x[2 k] + w[2 k + 1] * x[2 k + 1], int16 that wraps; w unsigned ---


def quad_add_x86(name: str, bits: int) -> Callable[..., ir.Value]:
    def quad_add(b: ir.IRBuilder, acc: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
        def work(acc: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
            return b.add(acc, call(b, f"llvm.x86.{name}", acc.type, w, x))

        return by_pieces(b, bits // 8, work, acc, w, x)

    return quad_add


quad_add_avx512 = quad_add_x86("avx512.pmaddubs.w.512", 512)
quad_add_avx2 = quad_add_x86("avx2.pmadd.ub.sw", 256)


def quad_add_portable(b: ir.IRBuilder, acc: ir.Value, w: ir.Value, x: ir.Value) -> ir.Value:
    n = acc.type.count
    for j in range(2):
        weights, inputs = b.zext(part(b, w, j, n, 2), acc.type), b.sext(part(b, x, j, n, 2), acc.type)
        acc = b.add(acc, b.mul(weights, inputs))
    return acc


# --- in_order: the same vector, which LLVM takes for a new one ---


def in_order(constraint: str, piece_bytes: int) -> Callable[..., ir.Value]:
    """By assembly without an instruction, which comes where it stands: before it all that it takes is computed."""

    def ordered(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
        def work(v: ir.Value) -> ir.Value:
            kind = ir.FunctionType(v.type, [v.type])
            return b.call(ir.InlineAsm(kind, "", f"={constraint},0", side_effect=True), [v])

        return by_pieces(b, piece_bytes, work, v)

    return ordered


def as_llvm_likes(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
    return v


# --- look_up: table[16 * (v >> bit) + code], all bytes; code in 0..15; upper bits of v >> bit don't count ---


def _index(b: ir.IRBuilder, table: Sequence[int], bit: int, code: ir.Value, v: ir.Value) -> ir.Value:
    """The bits of v beside those of code; a shift of int16 moves other bits in, which are masked."""
    n = code.type.count
    pairs, left = vector(I16, n // 2), 4 - bit
    move = b.shl if left > 0 else b.lshr
    moved = b.bitcast(move(b.bitcast(v, pairs), constant(I16, [abs(left)] * (n // 2))), v.type)
    return b.or_(b.and_(moved, constant(I8, [len(table) - 16] * n)), code)


def look_up_avx512(b: ir.IRBuilder, table: Sequence[int], bit: int, code: ir.Value, v: ir.Value) -> ir.Value:
    """One permute of 64 bytes."""
    whole = constant(I8, list(table) * (64 // len(table)))
    return call(b, "llvm.x86.avx512.permvar.qi.512", code.type, whole, _index(b, table, bit, code, v))


def look_up_avx2(b: ir.IRBuilder, table: Sequence[int], bit: int, code: ir.Value, v: ir.Value) -> ir.Value:
    """Shuffles of 16 bytes, and selections by bits of v.

    A bit becomes the top one by what is added to it alone: shifts would take the two ports that shuffles need.
    """
    parts = [constant(I8, list(table[at : at + 16]) * 2) for at in range(0, len(table), 16)]

    def work(code: ir.Value, v: ir.Value) -> ir.Value:
        found = [call(b, "llvm.x86.avx2.pshuf.b", code.type, levels, code) for levels in parts]
        mask = 1 << bit
        while len(found) > 1:
            alone = b.and_(v, constant(I8, [mask if mask < 128 else -128] * 32))
            top = b.add(alone, constant(I8, [128 - mask] * 32))
            found = [
                call(b, "llvm.x86.avx2.pblendvb", code.type, no, yes, top)
                for no, yes in zip(found[::2], found[1::2], strict=True)
            ]
            mask *= 2
        return found[0]

    return by_pieces(b, 32, work, code, v)


def look_up_neon(b: ir.IRBuilder, table: Sequence[int], bit: int, code: ir.Value, v: ir.Value) -> ir.Value:
    """One TBL over two or four registers."""
    parts = [constant(I8, table[at : at + 16]) for at in range(0, len(table), 16)]

    def work(code: ir.Value, v: ir.Value) -> ir.Value:
        name = f"llvm.aarch64.neon.tbl{len(parts)}.v16i8"
        return call(b, name, code.type, *parts, _index(b, table, bit, code, v))

    return by_pieces(b, 16, work, code, v)


def look_up_portable(b: ir.IRBuilder, table: Sequence[int], bit: int, code: ir.Value, v: ir.Value) -> ir.Value:
    """A byte at a time, through memory."""
    index = _index(b, table, bit, code, v)
    name = "look_up." + bytes(x & 255 for x in table).hex()
    stored = b.module.globals.get(name)
    if stored is None:
        kind = ir.ArrayType(I8, len(table))
        stored = ir.GlobalVariable(b.module, kind, name)
        stored.linkage, stored.global_constant, stored.initializer = "internal", True, ir.Constant(kind, list(table))
    found = ir.Constant(code.type, ir.Undefined)
    for i in range(code.type.count):
        entry = b.zext(b.extract_element(index, I32(i)), I32)
        found = b.insert_element(found, b.load(b.gep(stored, [I32(0), entry])), I32(i))
    return found


# --- q3's codes that have no line of their own ---


def join_spare(b: ir.IRBuilder, *lines: ir.Value) -> ir.Value:
    """Bits 3 and 7 of the bytes of three vectors as bits 0..2 and 4..6 of one."""
    n = lines[0].type.count
    spare = [b.lshr(b.and_(line, constant(I8, [-120] * n)), constant(I8, [3 - i] * n)) for i, line in enumerate(lines)]
    return b.or_(b.or_(spare[0], spare[1]), spare[2])


# --- 16-bit floats, in integer arithmetic ---


def _repeat(kind: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


def bf16_to_f32(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
    """bf16 is the upper half of an f32."""
    wide = vector(I32, v.type.count)
    return b.bitcast(b.shl(b.zext(v, wide), _repeat(wide, 16)), vector(F32, v.type.count))


def f16_to_f32(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
    """Move the fields and let a multiplication by 2**112 mend the exponent, of subnormals too."""
    wide, floats = vector(I32, v.type.count), vector(F32, v.type.count)
    bits = b.zext(v, wide)
    sign = b.shl(b.and_(bits, _repeat(wide, 0x8000)), _repeat(wide, 16))
    size = b.shl(b.and_(bits, _repeat(wide, 0x7FFF)), _repeat(wide, 13))
    mended = b.bitcast(b.fmul(b.bitcast(size, floats), _repeat(floats, 2.0**112), flags=("nsz",)), wide)
    special = b.icmp_unsigned(">=", size, _repeat(wide, 0x7C00 << 13))
    mended = b.select(special, b.or_(size, _repeat(wide, 0x7F800000)), mended)
    return b.bitcast(b.or_(sign, mended), floats)


LOWERINGS = {
    "avx512": (
        dot_vnni(512), scaled(dot_vnni(512)), each(dot_vnni(512)), pair_dot_vnni(512),
        quad_add_avx512, in_order("v", 64), look_up_avx512,
    ),
    "avxvnni": (
        dot_vnni(256), scaled(dot_vnni(256)), each(dot_vnni(256)), pair_dot_vnni(256),
        quad_add_avx2, in_order("x", 32), look_up_avx2,
    ),
    "avx2": (
        dot_avx2, scaled(dot_avx2), nibble_dot_avx2, pair_dot_avx2,
        quad_add_avx2, in_order("x", 32), look_up_avx2,
    ),
    "neon": (
        dot_neon, scaled(dot_neon), each(dot_neon), dot_portable,
        quad_add_portable, in_order("w", 16), look_up_neon,
    ),
    "portable": (
        dot_portable, scaled(dot_portable), each(dot_portable), dot_portable,
        quad_add_portable, as_llvm_likes, look_up_portable,
    ),
}  # fmt: skip
