"""Which vector instructions the integer kernels compile to: decided here, once, from the CPU Numba compiles for.

    avx512    AVX512-VBMI and -VNNI   Intel Ice Lake, AMD Zen 4 and later
    avxvnni   AVX-VNNI                Intel Alder Lake and later
    avx2      AVX2                    Intel Haswell, AMD Zen and later
    neon      Advanced SIMD, dotprod  Apple M1, Arm Neoverse N1 and later
    portable  plain LLVM vectors      everything else

A test of another x86 target sets NUMBA_CPU_NAME and NUMBA_CPU_FEATURES before Python starts.
"""

from __future__ import annotations

import llvmlite.binding as llvm

from quant.jit import cpu_features


def choose(features: frozenset[str], cpu_name: str) -> str:
    """The best lowering for a CPU with these LLVM features."""
    if {"avx512f", "avx512bw", "avx512vl", "avx512vbmi", "avx512vnni"} <= features:
        return "avx512"
    if {"avx2", "avxvnni"} <= features:
        return "avxvnni"
    if "avx2" in features:
        return "avx2"
    # LLVM reports no features for some Apple CPUs; all of them have the dot product.
    if "dotprod" in features or cpu_name.startswith("apple-"):
        return "neon"
    return "portable"


_NAME = llvm.get_host_cpu_name()
LOWERING = choose(cpu_features(), _NAME)

# Matrix rows that one vector of 32-bit lanes spans: a register, or two where they are short.
LANES = 16 if LOWERING == "avx512" else 8

# VNNI multiplies unsigned by signed bytes: weights are held 128 higher there, paid back through the sum of the inputs.
OFFSET = 128 if LOWERING in ("avx512", "avxvnni") else 0

# Whether one instruction adds four products of bytes to an int32.
DOTS = LOWERING in ("avx512", "avxvnni", "neon")

# Without a permute of 64 bytes, a q4 group's codebook is looked up row by row.
ROW_LANES = LOWERING in ("avx2", "avxvnni")

# What weights that are read once are asked for into, as LLVM counts: 3 every cache, 0 as few as there are. The latter
# leaves the outer caches to others and gains 1 % on Zen; Intel's CPUs have room for few such lines at a time, and took
# twice as long for a token.
ZEN = _NAME.startswith("znver")
LOCALITY = 0 if ZEN else 3


def ahead(block_bytes: int, blocks: int) -> int:
    """Bytes from the weights in work to those asked for, whole blocks of them: so many on Zen, 1.4 KB elsewhere.

    On Zen 3 q4 is 10 % slower with half of its 8 blocks; on Intel q5 and q6 are a fifth slower with 2 KB.
    """
    return (blocks if ZEN else max(1, 1408 // block_bytes)) * block_bytes
