"""How long it takes to open a checkpoint of Kimi K2.5's size and to check a plan against every header in it.

    python -m tests.bench.open_checkpoint

64 files of holes with the 208 550 names, dtypes and shapes of the published one (vision tensors are stand-ins by
number); no data is read.
"""

from __future__ import annotations

import json
import resource
import tempfile
from pathlib import Path
from time import perf_counter

from quant.checkpoint import Checkpoint
from quant.plan import Dense, ExpertLayer, HeadSlice, Part, Plan, check
from quant.preview import preview
from quant.recipe import load_recipe
from tests.bench.holes import Tensors, write_files
from tests.reference_encodings import INT4_CONFIG

LAYERS, EXPERTS, FILES = 61, 384, 64
HIDDEN, WIDTH, VOCAB, HEADS = 7168, 2048, 163840, 64
PREFIX = "language_model.model."


def dense() -> list[Dense]:
    """What every token uses."""
    found = [
        Dense("embed", PREFIX + "embed_tokens.weight", "embedding", (VOCAB, HIDDEN)),
        Dense("head", "language_model.lm_head.weight", "head", (VOCAB, HIDDEN)),
        Dense("norm", PREFIX + "norm.weight", "norm", (HIDDEN,), kind="vector"),
    ]

    def add(layer: int, name: str, role: str, *shape: int) -> None:
        kind = "vector" if len(shape) == 1 else "matrix"
        found.append(Dense(f"layers.{layer}.{name}", f"{PREFIX}layers.{layer}.{name}", role, shape, kind))  # type: ignore[arg-type]

    for layer in range(LAYERS):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            add(layer, norm + ".weight", "norm", HIDDEN)
        add(layer, "self_attn.q_a_proj.weight", "attention", 1536, HIDDEN)
        add(layer, "self_attn.q_a_layernorm.weight", "norm", 1536)
        add(layer, "self_attn.q_b_proj.weight", "attention", 12288, 1536)
        add(layer, "self_attn.kv_a_proj_with_mqa.weight", "attention", 576, HIDDEN)
        add(layer, "self_attn.kv_a_layernorm.weight", "norm", 512)
        add(layer, "self_attn.o_proj.weight", "attention", HIDDEN, 8192)
        source = f"{PREFIX}layers.{layer}.self_attn.kv_b_proj.weight"
        up = HeadSlice(HEADS, 256, 0, 128, transposed=True)
        found.append(Dense(f"layers.{layer}.k_up", source, "attention", (HEADS * 512, 128), heads=up))
        down = HeadSlice(HEADS, 256, 128, 256)
        found.append(Dense(f"layers.{layer}.v_up", source, "attention", (HEADS * 128, 512), heads=down))
        width, under = (WIDTH, "shared_experts.") if layer else (18432, "")
        for part, shape in (("gate", (width, HIDDEN)), ("up", (width, HIDDEN)), ("down", (HIDDEN, width))):
            add(layer, f"mlp.{under}{part}_proj.weight", "shared", *shape)
        if layer:
            add(layer, "mlp.gate.weight", "router", EXPERTS, HIDDEN)
            add(layer, "mlp.gate.e_score_correction_bias", "router", EXPERTS)
    return found


def plan() -> Plan:
    """Where everything goes."""
    layers = []
    for layer in range(1, LAYERS):
        theirs = f"{PREFIX}layers.{layer}.mlp.experts." + "{expert}."
        shapes = (("gate", (WIDTH, HIDDEN)), ("up", (WIDTH, HIDDEN)), ("down", (HIDDEN, WIDTH)))
        parts = tuple(Part(part, f"{theirs}{part}_proj.weight", shape) for part, shape in shapes)
        layers.append(ExpertLayer(layer, EXPERTS, parts))
    return Plan(tuple(dense()), tuple(layers), (r"vision_tower\..*",))


def tensors(of: Plan) -> Tensors:
    """(dtype, shape) of every tensor in the checkpoint."""
    found: Tensors = {}
    for entry in of.dense:
        found[entry.source] = ("F32" if entry.source.endswith("bias") else "BF16", entry.source_shape)
    for layer in of.experts:
        for expert in range(layer.n_experts):
            for part in layer.parts:
                rows, cols = part.shape
                name = part.tensor(expert)
                found[name + "_packed"] = "I32", (rows, cols // 8)
                found[name + "_scale"] = "BF16", (rows, cols // 32)
                found[name + "_shape"] = "I32", (2,)
    found |= {f"vision_tower.{n}.weight": ("BF16", (1152, 1152)) for n in range(208_550 - len(found))}
    return found


def write(folder: Path, held: Tensors) -> None:
    """The index, and files of holes."""
    names = list(held)
    each = -(-len(names) // FILES)
    write_files(folder, [{name: held[name] for name in names[n : n + each]} for n in range(0, len(names), each)])
    config = {"quantization_config": INT4_CONFIG, "text_config": {"quantization_config": INT4_CONFIG}}
    (folder / "config.json").write_text(json.dumps(config))


def main() -> None:
    """Measure and print."""
    of = plan()
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), tensors(of))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = perf_counter()
        with Checkpoint.open(Path(folder)) as checkpoint:
            opened = perf_counter()
            check(of, checkpoint)
            checked = perf_counter()
            sizes = preview(checkpoint, of, load_recipe("int4"))
            previewed = perf_counter()
            count = len(checkpoint.names)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"{count} tensors, {sizes.source_bytes / 1e9:.1f} GB to {sizes.output_bytes / 1e9:.1f} GB")
    print(f"open    {opened - start:5.2f} s\ncheck   {checked - opened:5.2f} s\npreview {previewed - checked:5.2f} s")
    print(f"memory  {grown:5.0f} MiB more")


if __name__ == "__main__":
    main()
