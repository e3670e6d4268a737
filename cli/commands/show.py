"""`moe show`: what a quantized model is made of, and whether it is intact."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cli import options, output


def show(
    model: Annotated[str, typer.Argument(help="A name in the store, or a folder.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read every byte again and check it.")] = False,
    json: options.Json = False,
) -> None:
    """Describe a quantized model.

    With --verify, check every file against its checksum.
    """
    from cli import store
    from quant.container import open_model
    from quant.errors import CheckpointError

    opened = open_model(store.find(model))
    facts = _facts(opened)
    if json:
        output.as_json(facts)
    else:
        output.table(["", ""], [[key.replace("_", " "), str(value)] for key, value in facts.items()])
    if verify:
        with output.progress("verifying", opened.bytes) as advance:
            damage = list(opened.verify(lambda done, total: advance(done)))
        if damage:
            more = f" (and {len(damage) - 1} more faults)" if len(damage) > 1 else ""
            raise CheckpointError(damage[0] + more, hint="quantize the model again")
        output.say("every file is as it was written")


def _facts(opened: Any) -> dict[str, Any]:
    manifest = opened.manifest
    text = opened.config.get("text_config", opened.config)
    dense: dict[str, set[str]] = {}
    for entry in manifest["dense"].values():
        dense.setdefault(entry["role"], set()).add(entry.get("format", "f32"))
    experts = [part["format"] for layer in manifest["experts"].values() for part in layer["parts"].values()]
    dense["expert"] = set(experts)
    layers = [opened.expert_layer(layer) for layer in opened.expert_layers]
    return {
        "name": opened.path.name,
        "path": str(opened.path),
        "family": opened.config.get("model_type"),
        "source": manifest["source"]["name"],
        "recipe": manifest["recipe"]["name"],
        "size": output.size(opened.bytes),
        "formats": ", ".join(
            f"{role} {'+'.join(sorted(formats))}" for role, formats in sorted(dense.items()) if formats
        ),
        "expert_layers": len(layers),
        "experts_a_layer": layers[0].records.shape[0] if layers else 0,
        "active_experts": text.get("num_experts_per_tok"),
        "expert_record": output.size(layers[0].records.shape[1]) if layers else "",
        "context": text.get("max_position_embeddings"),
    }
