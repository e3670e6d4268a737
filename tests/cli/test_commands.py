"""What commands say and return when something is wrong, and what they cost before they start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cli.byte_size import parse
from tests.checkpoints import change_json, copy_of, copy_of_demo, header_of, write_safetensors
from tests.command import check_error, moe
from tests.conftest import DEMO, FIXTURES, ROOT, Quantized
from tests.cpu_runtime.text.families import WEATHER

TINY = FIXTURES / "qwen3_5_per_expert"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return copy_of(TINY, tmp_path / "source")


def nothing_made(home: Path) -> bool:
    return not list((home / "models").glob("*"))


def test_no_heavy_import_for_help() -> None:
    heavy = ("numpy", "numba", "llvmlite", "huggingface_hub", "tokenizers", "jinja2", "prompt_toolkit", "safetensors")
    code = f"import sys, cli.app; print([m for m in {heavy} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


@pytest.mark.parametrize(
    "command", [[], ["pull"], ["quantize"], ["chat"], ["run"], ["list"], ["show"], ["rm"], ["eval"], ["fit"], ["bench"]]
)
def test_help(command: list[str], home: Path) -> None:
    result = moe(*command, "--help", home=home)
    assert result.returncode == 0
    assert "Usage" in result.stdout
    assert not home.exists()


def test_version(home: Path) -> None:
    assert moe("--version", home=home).stdout.startswith("moe ")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["quantize", "nowhere"], 3, ["nowhere"]),
        (["quantize", "org/never-pulled"], 3, ["moe pull org/never-pulled"]),
        (["quantize", str(TINY), "--recipe", "int2"], 2, ["int2", "int4"]),
        (["quantize", str(TINY), "--out", "a b"], 2, ["a b"]),
        (["quantize", str(FIXTURES)], 6, ["config.json"]),
        (["run", "nothing", "hi"], 3, ["nothing"]),
        (["run", str(TINY), "hi"], 6, ["moe quantize"]),
        (["run", str(FIXTURES), "hi"], 6, ["no model"]),
        (["chat"], 3, ["moe demo"]),
        (["show", "nothing"], 3, ["nothing"]),
        (["rm", "nothing"], 3, ["nothing"]),
        (["run", "--nonsense"], 2, ["--nonsense"]),
        (["nonsense"], 2, ["nonsense"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_requests_that_can_not_be(arguments: list[str], code: int, words: list[str], home: Path) -> None:
    check_error(moe(*arguments, home=home), code, *words)
    assert nothing_made(home)


def test_truncated_shard(source: Path, home: Path) -> None:
    shard = source / "model.safetensors"
    os.truncate(shard, shard.stat().st_size // 2)
    check_error(moe("quantize", source, home=home), 6, "model.safetensors", "truncated", "pull")
    assert nothing_made(home)


def test_header_of_2_to_the_60(source: Path, home: Path) -> None:
    with (source / "model.safetensors").open("r+b") as file:
        file.write((1 << 60).to_bytes(8, "little"))
    check_error(moe("quantize", source, home=home), 6, "model.safetensors", "header")
    assert nothing_made(home)


def test_wrong_dtype(source: Path, home: Path) -> None:
    header, data = header_of(source / "model.safetensors")
    header["lm_head.weight"]["dtype"] = "I16"
    write_safetensors(source / "model.safetensors", header, data)
    check_error(moe("quantize", source, home=home), 6, "lm_head.weight", "I16")
    assert nothing_made(home)


def test_index_naming_a_missing_file(tmp_path: Path, home: Path) -> None:
    source = copy_of_demo(tmp_path / "demo")
    next(source.glob("*.safetensors")).unlink()
    check_error(moe("quantize", source, home=home), 6, "index.json", "missing")
    assert nothing_made(home)


def test_unknown_model_type(source: Path, home: Path) -> None:
    change_json(source / "config.json", model_type="mixtral")
    check_error(moe("quantize", source, home=home), 6, "mixtral", "qwen3_5_moe")
    assert not (home / "models").exists()


def test_missing_tokenizer(tmp_path: Path, home: Path) -> None:
    source = copy_of_demo(tmp_path / "demo")
    (source / "tokenizer.json").unlink()
    made = moe("quantize", source, "--out", "mute", home=home)
    assert "no tokenizer.json" in made.stderr
    check_error(moe("run", "mute", "hi", home=home), 6, "tokenizer.json", "missing")
    (tmp_path / "ids.json").write_text("[300, 301, 302]")
    # The likeliest tokens: among drawn ones may be one that ends the answer.
    options = "--json", "--max-tokens", "3", "--temp", "0"
    result = moe("run", "mute", "--tokens", tmp_path / "ids.json", *options, home=home)
    assert len(json.loads(result.stdout)["token_ids"]) == 3


def test_a_tokenizer_of_ranks(tmp_path: Path, home: Path) -> None:
    source = copy_of_demo(tmp_path / "demo")
    (source / "tokenizer.json").unlink()
    (source / "tiktoken.model").write_bytes(b"YQ== 0\nYg== 7\n")
    made = moe("quantize", source, "--out", "ranks", home=home)
    assert "warning" not in made.stderr
    check_error(moe("run", "ranks", "hi", home=home), 6, "tiktoken.model, line 2", "expected rank 1")


def test_tools(tmp_path: Path, quantized: Quantized, home: Path) -> None:
    model, tools = copy_of(quantized(DEMO, "int4"), tmp_path / "m"), tmp_path / "tools.json"
    for text in ("", "{}", "[]", "[3]", '[{"type": "function"}]', "[" * 100_000):
        tools.write_text(text)
        check_error(moe("run", model, "hi", "--tools", tools, home=home), 2, "tools.json")
    tools.write_text(json.dumps([WEATHER]))
    check_error(moe("run", model, "hi", "--tools", tools, home=home), 2, "takes no tools")
    check_error(moe("run", model, "--tokens", tools, "--tools", tools, home=home), 2, "--tools", "--tokens")
    template = (FIXTURES / "templates" / "qwen3_5_moe.jinja").read_text()
    (model / "chat_template.jinja").write_text(template)
    answer = moe("run", model, "hi", "--tools", tools, "--json", "--max-tokens", "3", home=home)
    found = json.loads(answer.stdout)
    assert found["tool_calls"] == []
    assert found["usage"]["prompt_tokens"] > 100, "the tools are part of the prompt"


def test_a_model_that_always_thinks(tmp_path: Path, quantized: Quantized, home: Path) -> None:
    model = copy_of(quantized(DEMO, "int4"), tmp_path / "m")
    (model / "chat_template.jinja").write_text("{{ messages[-1].content }}<think>\n")
    check_error(moe("run", model, "hi", "--no-think", home=home), 2, "always thinks", "--no-think")
    assert moe("run", model, "hi", "--max-tokens", "1", home=home).returncode == 0


def test_hostile_template(tmp_path: Path, home: Path) -> None:
    source = copy_of_demo(tmp_path / "demo")
    (source / "chat_template.jinja").write_text("{{ ''.__class__.__mro__[1].__subclasses__() }}\n{{ 1 }}")
    moe("quantize", source, "--out", "hostile", home=home)
    check_error(moe("run", "hostile", "hi", home=home), 6, "chat_template.jinja")


def test_disk_full(tmp_path: Path, home: Path) -> None:
    full = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))"
    result = moe("quantize", DEMO, home=home, before=full)
    check_error(result, 5, "no space left", "run the same command again")
    assert nothing_made(home)


def test_unreadable_folder(tmp_path: Path, home: Path) -> None:
    (tmp_path / "source" / "config.json").mkdir(parents=True)
    check_error(moe("quantize", tmp_path / "source", home=home), 6, "config.json")


def test_an_output_that_exists(source: Path, home: Path) -> None:
    assert moe("quantize", source, "--out", "tiny", home=home).returncode == 0
    check_error(moe("quantize", source, "--out", "tiny", home=home), 2, "already exists")


def test_damage_after_conversion_is_found(source: Path, home: Path, tmp_path: Path) -> None:
    out = tmp_path / "there"
    assert moe("quantize", source, "--out", f"{out}/", home=home).returncode == 0
    data = bytearray((out / "experts-001.safetensors").read_bytes())
    data[-100] ^= 1
    (out / "experts-001.safetensors").write_bytes(data)
    check_error(moe("show", out, "--verify", home=home), 6, "experts-001.safetensors")
    check_error(moe("run", out, "--tokens", tmp_path / "none.json", home=home), 2, "none.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1, true]", "[1.5]", '["a"]', "[1, 999999]"])
def test_token_files_that_are_none(quantized: Quantized, tmp_path: Path, home: Path, text: str) -> None:
    file, out = tmp_path / "ids.json", tmp_path / "out.npy"
    file.write_text(text)
    model = quantized(TINY, "int8")
    check_error(moe("eval", "logits", model, "--tokens", file, "--out", out, home=home), 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ids.json"]


def test_a_recipe_that_a_user_wrote(source: Path, home: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text('description = "mine"\n[formats]\nexpert = "q8"\nhead = "q4"\n')
    result = moe("quantize", source, "--recipe", recipe, "--json", "--dry-run", home=home)
    formats = {role["role"]: role["formats"] for role in json.loads(result.stdout)["roles"]}
    assert (formats["expert"], formats["head"], formats["attention"]) == (["q8"], ["q4"], ["bf16"])
    for wrong in ('[formats]\nexperts = "q4"', '[formats]\nexpert = "q9"', "x = 1", "[[", "formats = 3"):
        recipe.write_text(wrong)
        check_error(moe("quantize", source, "--recipe", recipe, home=home), 2, "mine.toml")


def test_colours_are_for_terminals(quantized: Quantized, home: Path) -> None:
    result = moe("show", quantized(TINY, "int8"), home=home)
    assert "\x1b" not in result.stdout + result.stderr


def test_a_reader_that_leaves(quantized: Quantized, home: Path) -> None:
    environment = os.environ | {"MOE_HOME": str(home)}
    command = f"{sys.executable} -m cli show {quantized(TINY, 'int8')} --json | head -c 1"
    result = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, env=environment, capture_output=True
    )
    assert b"Traceback" not in result.stderr
    assert result.returncode in (0, 141)


def test_memory(tmp_path: Path, quantized: Quantized, home: Path) -> None:
    model = quantized(DEMO, "int4")
    for text in ("lots", "", "0G", "-1G", "1P"):
        check_error(moe("run", model, "hi", "--memory", text, home=home), 2, f"--memory {text}", "24G")
    check_error(moe("run", model, "hi", "--memory", "50MB", home=home), 5, "48 MiB", "are needed", "--memory")
    whole = moe("run", model, "What is 4 + 5?", "--temp", "0", "--memory", "4G", "--verify", home=home)
    assert whole.stdout == "4 + 5 = 9.\n", whole.stderr


@pytest.mark.parametrize(
    ("text", "bytes"), [("12G", 12 * 10**9), ("1.5 GiB", 3 << 29), ("2gb", 2 * 10**9), ("4096", 4096), ("7Ki", 7168)]
)
def test_amounts_of_memory(text: str, bytes: int) -> None:
    assert parse("--memory", text) == bytes


def test_a_damaged_expert_is_found_as_it_is_read(tmp_path: Path, quantized: Quantized, home: Path) -> None:
    model = copy_of(quantized(DEMO, "int4"), tmp_path / "m")
    for file in model.glob("experts-*"):
        with file.open("r+b") as opened:  # the last byte of every record's padding, so that every expert is damaged
            header = int.from_bytes(opened.read(8), "little") + 8
            layer = json.loads((model / "manifest.json").read_text())["experts"][str(int(file.name[8:11]))]
            for expert in range(layer["n_experts"]):
                opened.seek(header + (expert + 1) * layer["record_bytes"] - 1)
                last = opened.read(1)[0]
                opened.seek(-1, os.SEEK_CUR)
                opened.write(bytes([last ^ 1]))
    check_error(moe("run", model, "hi", "--verify", home=home), 6, "experts-00", "expert 0 of layer", "damaged")
