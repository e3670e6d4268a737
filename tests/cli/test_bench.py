"""`moe bench`: its tables, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from quant.container import open_model
from tests.command import check_error, moe, started
from tests.conftest import DEMO, FIXTURES, Quantized

SHORT = ("-r", "2", "-t", "1")
SMALL = "import cpu_runtime.roofs\ncpu_runtime.roofs.BEYOND_CACHES = 1 << 22"  # memory's rate, found in no time


def test_a_row_for_each_test(quantized: Quantized, home: Path) -> None:
    model = quantized(DEMO, "int4")
    result = moe("bench", model, "-p", "16,300", "-n", "4", "-d", "0,20", *SHORT, home=home, before=SMALL)
    assert result.returncode == 0, result.stderr
    heading, rule, *rows = [line.strip("| ").split(" | ") for line in result.stdout.splitlines()]
    assert heading[4:] == ["test", "t/s", "weights read", "of roof", "hits", "disk read"]
    assert len(rule) == len(heading)
    names = [row[4] for row in rows]
    assert names == ["pp16", "pp300", "tg4", "pp16 @ d20", "pp300 @ d20", "tg4 @ d20"]
    assert rows[0][1:4] == ["6.5 MB", "7.35 M", "1"]
    assert "±" in rows[0][5]
    assert rows[0][7].endswith("of int8")
    assert rows[2][7].endswith("of memory")
    assert "GB/s" in result.stderr


def test_json_and_csv_say_the_same(quantized: Quantized, home: Path) -> None:
    model = quantized(DEMO, "int4")
    asked = "bench", model, "-p", "8", "-n", "3", *SHORT, "-o"
    rows = json.loads(moe(*asked, "json", home=home, before=SMALL).stdout)
    assert [row["test"] for row in rows] == ["pp8", "tg3"]
    for row in rows:
        assert row["tokens_per_s"] == pytest.approx(sum(row["samples"]) / 2)
        assert row["size"] == open_model(model).bytes
    reads = rows[1]
    assert reads["roof_share"] == pytest.approx(reads["weights_read_bytes_per_s"] / reads["memory_roof_bytes_per_s"])
    assert rows[0]["weights_read_bytes_per_s"] is None
    table = list(csv.DictReader(moe(*asked, "csv", home=home, before=SMALL).stdout.splitlines()))
    assert [row["test"] for row in table] == ["pp8", "tg3"]
    assert list(table[0]) == list(rows[0])
    assert len(table[1]["samples"].split()) == 2
    assert rows[1]["expert_hit_rate"] is None  # nothing is read from disk on purpose


def test_cold_rounds(quantized: Quantized, home: Path) -> None:
    result = started("bench", quantized(DEMO, "int4"), "-p", "4", "-n", "2", "--cold", *SHORT, home=home)
    assert result.returncode == 0, result.stderr
    assert "| pp4, cold |" in result.stdout
    assert "| tg2, cold |" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["-p", "many"], 2, ["-p many", "128,512"]),
        (["-p", "1,,2"], 2, ["-p 1,,2"]),
        (["-n", "-1"], 2, ["-n -1"]),
        (["-n", "9" * 5000], 2, ["-n 9"]),
        (["-t", "0"], 2, ["-t 0"]),
        (["-p", "0", "-n", "0"], 2, ["nothing to measure"]),
        (["-r", "0"], 2, ["nothing to measure"]),
        (["-o", "xml"], 2, ["xml"]),
        (["-d", "8", "--cold"], 2, ["--cold", "-d 0"]),
        (["-d", "100000000"], 2, ["100000512", "2048"]),
    ],
    ids=lambda value: " ".join(value)[:20] if isinstance(value, list) else "",
)
def test_what_can_not_be_measured(
    arguments: list[str], code: int, words: list[str], quantized: Quantized, home: Path
) -> None:
    result = moe("bench", quantized(DEMO, "int4"), *arguments, home=home)
    check_error(result, code, *words)
    assert "± " not in result.stdout


def test_models_that_are_none(home: Path) -> None:
    check_error(moe("bench", "nothing", home=home), 3, "nothing")
    check_error(moe("bench", FIXTURES / "minimax_m2_bf16", home=home), 6, "moe quantize")
