"""Where the routed experts' weights are while a model runs; results do not depend on it, bit for bit.

An expert is one record: gate, up and down matrices in one contiguous run of bytes (`quant/FORMAT.md`).
"""
