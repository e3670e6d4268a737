"""`moe fit`: of a model here, of a checkpoint, and of nothing but a config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cpu_runtime import machine
from quant.formats import FORMATS
from tests.checkpoints import change_json, copy_of
from tests.command import check_error, moe, started
from tests.conftest import DEMO, FIXTURES, Quantized
from tests.hub_server import serving
from tests.published import DEEPSEEK_R1, PUBLISHED, WEIGHTS, scaled

DATE = "2026-01-02T03:04+00:00"
SMALL = """
from cpu_runtime import rates, roofs
rates.HIDDEN, rates.WIDTH, rates.BEYOND_CACHES, rates._PRODUCTS, rates._DEEP = 512, 128, 1 << 20, 1 << 22, 512
roofs.BEYOND_CACHES = 1 << 22
"""  # what is measured, so that it takes no time; quick it must be, not true


@pytest.fixture(autouse=True)
def rates(home: Path) -> None:
    """This machine as if it had been measured, so that tests are quick and sums are easy."""
    rate = dict.fromkeys(FORMATS, {"one": 1e10, "many": [1e11] * 5})
    value = {
        **{"kind": 4, "machine": machine.name(), "threads": 1, "folder": str(home / "models"), "date": DATE},
        "drive": {"rate": 2e9, "latency": 1e-4},
        "rates": {
            **{"threads": 1, "read": 2e10, "dot": 1e12, "cache": 1e10, "attention": 5e10, "launch": 1e-5},
            **{"matrices": rate, "experts": rate},
        },
    }
    (home / "cache").mkdir(parents=True)
    (home / "cache" / "rates.json").write_text(json.dumps(value))


def fit(
    name: str | Path, home: Path, *options: str, code: int = 0, before: str = "", **environment: str
) -> dict[str, Any]:
    result = moe("fit", name, "-t", "1", "--json", *options, home=home, before=before, **environment)
    assert result.returncode == code, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def config_alone(config: dict[str, Any], folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_config_alone(name: str, tmp_path: Path, home: Path) -> None:
    folder = config_alone(PUBLISHED[name], tmp_path / "m")
    result = moe("fit", folder, "-t", "1", "--json", "--memory", "64G", home=home)
    found = json.loads(result.stdout)
    assert found["weights"] == WEIGHTS[name]
    assert found["disk"]["needed"] == found["disk_bytes"] > WEIGHTS[name] / 2
    assert found["fits"] == (found["disk"]["needed"] <= found["disk"]["free"])
    assert result.returncode == (0 if found["fits"] else 5), result.stderr
    assert found["memory"]["total"] == 64 * 10**9
    assert 0 < found["assumed"]["hit_rate"] < 1
    assert 0 < found["predicted"]["decode_tokens_per_s"] < 10
    assert found["measured"]["date"] == DATE


def test_the_hub_is_asked_for_the_config_alone(tmp_path: Path, home: Path) -> None:
    source = copy_of(FIXTURES / "minimax_m2_fp8", tmp_path / "source")
    with serving({"tiny/MiniMax": source}) as hub:
        found = fit("tiny/MiniMax", home, HF_ENDPOINT=hub.url)
        fetched = {path.rsplit("/", 1)[-1] for method, path in hub.requests if method == "GET" and "resolve" in path}
    assert fetched == {"config.json"}
    assert found["disk"]["download"] == sum(path.stat().st_size for path in source.glob("*.safetensors"))
    assert found["disk"]["needed"] == found["disk_bytes"] + found["disk"]["download"]
    here = fit(source, home)
    assert here["disk_bytes"] == found["disk_bytes"]
    assert (here["sizes_from"], here["disk"]["download"]) == ("computed from headers for int4", 0)


def test_a_model_in_the_store_and_its_source(quantized: Quantized, home: Path) -> None:
    source, made = fit(DEMO, home), fit(quantized(DEMO, "int4"), home)
    for key in ("disk_bytes", "roles", "always_bytes", "routed_bytes", "cache_token_bytes", "predicted"):
        assert made[key] == source[key]
    assert (made["sizes_from"], made["disk"]["needed"]) == ("manifest", 0)
    assert fit(DEMO, home, "--recipe", "int8")["disk_bytes"] > source["disk_bytes"]


def test_memory_decides(quantized: Quantized, home: Path) -> None:
    model = quantized(DEMO, "int4")
    whole = fit(model, home, "--memory", "1G")
    assert whole["in_memory"]
    assert whole["predicted"]["missed_bytes_a_token"] == 0
    none = fit(model, home, "--memory", "1M", code=5)
    assert (none["fits"], none["predicted"]) == (False, None)
    part = fit(model, home, "--memory", str(none["memory"]["needed"] + 10**6))
    assert part["fits"]
    assert not part["in_memory"]
    assert part["predicted"]["decode_tokens_per_s"] < whole["predicted"]["decode_tokens_per_s"]
    assert part["predicted_half_repeated"]["hit_rate"] == 0.5 + part["predicted"]["hit_rate"] / 2
    assert whole["predicted_half_repeated"] is None
    short = fit(model, home, "--memory", "1G", "--ctx", "100")
    assert short["memory"]["caches"] < whole["memory"]["caches"]


def test_every_number_says_where_it_is_from(quantized: Quantized, home: Path) -> None:
    result = started("fit", quantized(DEMO, "int4"), "-t", "1", "--memory", "8G", home=home)
    assert result.returncode == 0, result.stderr
    *rows, verdict = result.stdout.splitlines()
    assert verdict == "fits: all in memory"
    for line in rows[1:]:
        of_a_role = line.startswith("  ") and line.split()[0] in ("expert", "attention", "embedding", "head", "shared")
        words = ("manifest", "measured", "assumed", "computed", "predicted", "given", "left")
        assert any(word in line for word in words) or of_a_role or line.split()[0] in ("gate", "router"), line
    assert f"measured {DATE}" in result.stdout


def test_rates_are_measured_once(home: Path) -> None:
    kept = home / "cache" / "rates.json"
    kept.write_text("[]")  # no note of ours
    first = fit(DEMO, home, before=SMALL)
    assert first["measured"]["date"] != DATE
    assert (
        min(first["measured"]["drive"]["rate"], first["measured"]["rates"]["read"], first["measured"]["rates"]["dot"])
        > 0
    )
    change_json(kept, date=DATE)
    assert fit(DEMO, home)["measured"] == {**first["measured"], "date": DATE}
    change_json(kept, machine="another")
    assert fit(DEMO, home, before=SMALL)["measured"]["date"] != DATE


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nothing"], 3, ["nothing"]),
        (["./nothing"], 3, ["nothing"]),
        ([str(FIXTURES)], 6, ["config.json"]),
        ([str(DEMO), "--memory", "lots"], 2, ["--memory lots", "24G"]),
        ([str(DEMO), "--memory", "0"], 2, ["--memory 0"]),
        ([str(DEMO), "--memory", "-1G"], 2, ["--memory -1G"]),
        ([str(DEMO), "--ctx", "0"], 2, ["--ctx 0", "2048"]),
        ([str(DEMO), "--ctx", "9999999"], 2, ["--ctx 9999999", "2048"]),
        ([str(DEMO), "--threads", "0"], 2, ["--threads 0"]),
        ([str(DEMO), "--recipe", "int2"], 2, ["int2", "int4"]),
    ],
    ids=lambda value: " ".join(value)[-20:] if isinstance(value, list) else "",
)
def test_what_can_not_be_told(arguments: list[str], code: int, words: list[str], home: Path) -> None:
    check_error(moe("fit", *arguments, home=home), code, *words)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"model_type": "mixtral"}, "mixtral"),
        ({"scoring_func": "softmax"}, "scoring_func"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"torch_dtype": "int8"}, "int8"),
    ],
)
def test_a_config_that_is_refused(change: dict[str, Any], word: str, tmp_path: Path, home: Path) -> None:
    check_error(moe("fit", config_alone(scaled(DEEPSEEK_R1, **change), tmp_path / "m"), home=home), 6, word)


def test_a_model_that_is_not_on_the_hub(home: Path, tmp_path: Path) -> None:
    with serving({}) as hub:
        check_error(moe("fit", "tiny/nothing", home=home, HF_ENDPOINT=hub.url), 3, "tiny/nothing")
    hasty = "import cli.patience\ncli.patience.PATIENCE = cli.patience.Patience(unreached=2)"
    asked = moe("fit", "tiny/nothing", home=home, before=hasty, HF_ENDPOINT="http://127.0.0.1:9")
    check_error(asked, 4, "can't be reached")
