"""`moe show`: what a quantized model is made of, and whether it is intact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options, output, sizes

if TYPE_CHECKING:
    from pathlib import Path

    from quant.container import QuantizedModel

_SHOWN = 20  # faults


def show(
    model: Annotated[str, typer.Argument(help="A name in the store, or a folder.")],
    verify: Annotated[bool, typer.Option("--verify", help="Read every byte again and check it.")] = False,
    json: options.Json = False,
) -> None:
    """Describe a quantized model.

    Bits are stored bits a weight; the error is the root of the squared differences from the source over its squares, as
    found when the model was quantized. With --verify, every file is read from the drive again and compared with its
    checksum; what is damaged is named: a file, and in it a tensor or an expert.
    """
    from cli import store
    from quant.container import open_model
    from quant.report import read_report
    from quant.role_sizes import role_sizes

    folder = store.find(model)
    if verify:
        _verify(folder)
    opened, report = open_model(folder), read_report(folder)
    facts, roles = _facts(opened), role_sizes(opened.manifest["dense"], opened.manifest["experts"])
    if json:
        calibration = opened.manifest.get("calibration")
        more = {"revision": facts["source"].partition("@")[2], "calibration": calibration}
        more |= {"intact": True} if verify else {}
        files = {name: entry["sha256"] for name, entry in opened.manifest["files"].items()}
        by_role = {size.role: sizes.as_json(size) for size in roles}
        output.as_json({**facts, **more, "roles": by_role, "report": report, "files": files})
    else:
        output.table(["", ""], [[key.replace("_", " "), str(value)] for key, value in facts.items()])
        output.line("")
        sizes.show_roles(roles, report)


def _verify(folder: Path) -> None:
    """Raise CheckpointError where a file is damaged, after naming all that is."""
    from quant.errors import CheckpointError
    from quant.manifest_file import read_manifest
    from quant.verify import verify

    total = sum(entry["bytes"] for entry in read_manifest(folder)["files"].values())
    with output.progress("verifying", total) as advance:
        damage = verify(folder, lambda done, total: advance(done))
    if damage:
        for line in damage[1:_SHOWN]:
            output.say(line)
        more = f" (and {len(damage) - 1} more faults)" if len(damage) > 1 else ""
        raise CheckpointError(damage[0] + more, hint="quantize the model again, or pull it again if it came ready-made")
    output.say("every file is as it was written")


def _facts(opened: QuantizedModel) -> dict[str, Any]:
    manifest = opened.manifest
    text = opened.config.get("text_config", opened.config)
    layers = [opened.expert_layer(layer) for layer in opened.expert_layers]
    return {
        "name": opened.path.name,
        "path": str(opened.path),
        "family": opened.config.get("model_type"),
        "source": manifest["source"]["name"],
        "recipe": manifest["recipe"]["name"],
        "calibration": _calibration(manifest.get("calibration")),
        "size": output.size(opened.bytes),
        "expert_layers": len(layers),
        "experts_a_layer": layers[0].records.shape[0] if layers else 0,
        "active_experts": text.get("num_experts_per_tok"),
        "expert_record": output.size(layers[0].records.shape[1]) if layers else "",
        "context": text.get("max_position_embeddings"),
        "manifest_sha256": manifest.get("sha256"),
    }


def _calibration(found: dict[str, Any] | None) -> str:
    return f"{found['tokens']:,} tokens of {found['text']}, read by {found['model']}" if found else "none"
