"""Numbers only: free functions over arrays, compiled by Numba; no objects, no files, no model families.

vectors.py is the alphabet (LLVM vectors as values), lowering.py its CPU-specific letters, cpu.py the choice between
them. Every kernel also runs as the Python it is written in, under NUMBA_DISABLE_JIT=1.
"""
