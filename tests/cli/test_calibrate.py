"""`moe calibrate` and `--stats`, as a person uses them, and the requests they refuse."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from quant.folder_lock import locked
from tests.checkpoints import copy_of, digests, header_of, write_safetensors
from tests.command import check_error, moe
from tests.conftest import DEMO, FIXTURES, Quantized
from tests.hub_server import serving
from tests.kills import at_call, finished, start

KEEP_ALL = "import quant.statistics_writer\nquant.statistics_writer.KEEP_SECONDS = 0\n"
TEXT = "\n".join(f"What is {n} + {m}? {n} + {m} = {n + m}." for n in range(4, 12) for m in range(3, 9))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "sums.txt"
    file.write_text(TEXT)
    return file


@pytest.fixture(scope="module")
def statistics(tmp_path_factory: pytest.TempPathFactory, quantized: Quantized) -> Path:
    """Of the demo model."""
    folder = tmp_path_factory.mktemp("statistics")
    (folder / "sums.txt").write_text(TEXT)
    arguments = ["--text", folder / "sums.txt", "--ctx", "64", "-o", folder / "demo.statistics.safetensors"]
    made = moe("calibrate", quantized(DEMO, "int8"), *arguments, home=folder)
    assert made.returncode == 0, made.stderr
    return folder / "demo.statistics.safetensors"


def test_calibrate_quantize_run(statistics: Path, tmp_path: Path, home: Path, quantized: Quantized) -> None:
    made = moe("quantize", DEMO, "--recipe", "int3", "--stats", statistics, "--json", home=home)
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    assert found["report"]["roles"]["expert"]["formats"] == ["q3"]
    assert found["report"]["calibration"]["text"] == "sums.txt"
    shown = moe("show", "demo-int3", home=home)
    assert f"tokens of sums.txt, read by {quantized(DEMO, 'int8').name}" in shown.stdout
    calibration = json.loads(moe("show", "demo-int3", "--json", home=home).stdout)["calibration"]
    assert calibration == found["report"]["calibration"]
    assert "none" in moe("show", quantized(DEMO, "int8"), home=home).stdout
    answer = moe("run", "demo-int3", "What is 17 + 25?", "--temp", "0", "--json", home=home)
    assert answer.returncode == 0, answer.stderr
    verified = moe("show", "demo-int3", "--verify", home=home)
    assert "every file is as it was written" in verified.stderr


def test_what_is_said_of_it(quantized: Quantized, tmp_path: Path, text: Path, home: Path) -> None:
    model = quantized(DEMO, "int8")
    arguments = ["--text", text, "--ctx", "32", "--tokens", "100", "-o", tmp_path / "s"]
    made = moe("calibrate", model, *arguments, home=home)
    assert made.returncode == 0, made.stderr
    assert made.stdout == f"{tmp_path / 's'}\n"
    for words in (
        "reading 128 tokens",
        "in 4 windows of 32",
        "calibrating: 100% of 8.0 layers",
        "of 128 experts",
        "next: ",
    ):
        assert words in made.stderr
    again = moe("calibrate", model, *arguments[:-1], tmp_path / "again", "--json", home=home)
    found = json.loads(again.stdout)
    assert (found["tokens"], found["window"], found["text"], found["experts"]["experts"]) == (128, 32, "sums.txt", 128)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "s").read_bytes()


def test_memory_that_is_too_little_for_all_experts(
    quantized: Quantized, tmp_path: Path, text: Path, home: Path
) -> None:
    model, arguments = quantized(DEMO, "int8"), ["--text", text, "--ctx", "64", "-o"]
    before = "import cpu_runtime.memory\ncpu_runtime.memory.RESERVE = 0\ncpu_runtime.memory.process_bytes = lambda: 0"
    whole = moe("calibrate", model, *arguments, tmp_path / "whole", home=home)
    little = moe("calibrate", model, *arguments, tmp_path / "little", "--memory", "60M", before=before, home=home)
    assert whole.returncode == little.returncode == 0, little.stderr
    none = moe("calibrate", model, *arguments, tmp_path / "none", "--memory", "5M", home=home)
    check_error(none, 5, "of memory are needed", "MiB for the text", "fewer --tokens")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("kind", "n"), [("sync", 1), ("sync", 3), ("sync", 8), ("sync", 25), ("name", 1), ("name", 9)])
def test_a_kill_changes_nothing(
    statistics: Path, quantized: Quantized, tmp_path: Path, home: Path, kind: str, n: int
) -> None:
    arguments = calibrating(statistics, quantized, tmp_path / "s")
    assert moe(*arguments, home=home, before=KEEP_ALL + at_call(kind, n)).returncode == -signal.SIGKILL
    assert {path.name for path in tmp_path.iterdir()} == {"s.partial"}
    made = moe(*arguments, home=home)
    assert made.returncode == 0, made.stderr
    assert ("going on after" in made.stderr) == ((kind, n) not in {("sync", 1), ("name", 1)})
    assert (tmp_path / "s").read_bytes() == statistics.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"s"}


def test_kill_after_kill(statistics: Path, quantized: Quantized, tmp_path: Path, home: Path) -> None:
    arguments, kills = calibrating(statistics, quantized, tmp_path / "s"), 0
    while (made := moe(*arguments, home=home, before=KEEP_ALL + at_call("sync", 6))).returncode:
        assert made.returncode == -signal.SIGKILL, made.stderr
        kills += 1
    assert kills == 4, "each has come two layers further, of eight"
    assert (tmp_path / "s").read_bytes() == statistics.read_bytes()


def test_a_kill_after_all_is_done(statistics: Path, quantized: Quantized, tmp_path: Path, home: Path) -> None:
    arguments = calibrating(statistics, quantized, tmp_path / "s")
    assert moe(*arguments, home=home, before=KEEP_ALL + at_call("sync", 26)).returncode == -signal.SIGKILL
    assert (tmp_path / "s").read_bytes() == statistics.read_bytes()
    check_error(moe(*arguments, home=home), 2, "already exists")
    assert {path.name for path in tmp_path.iterdir()} == {"s"}


def test_a_full_disk(statistics: Path, quantized: Quantized, tmp_path: Path, home: Path) -> None:
    arguments = calibrating(statistics, quantized, tmp_path / "s")
    full = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({0}, {0}))\n"
    for most in (10_000, 300_000):  # the statistics, and what is kept, do not fit
        failed = moe(*arguments, home=home, before=KEEP_ALL + full.format(most))
        check_error(failed, 5, "no space left while writing")
        assert not list(tmp_path.iterdir())
    assert moe(*arguments, home=home).returncode == 0
    assert (tmp_path / "s").read_bytes() == statistics.read_bytes()


def test_one_at_a_time(statistics: Path, quantized: Quantized, tmp_path: Path, home: Path) -> None:
    (tmp_path / "s.partial").mkdir()
    (tmp_path / "s.partial" / "notes").write_text("somebody's")
    arguments = calibrating(statistics, quantized, tmp_path / "s")
    with locked(tmp_path / "s.partial"):
        check_error(moe(*arguments, home=home), 2, "another process is already writing")
    assert moe(*arguments, home=home).returncode == 0
    assert [path.name for path in (tmp_path / "s.partial").iterdir()] == ["notes"], "not ours to delete"


def calibrating(statistics: Path, quantized: Quantized, out: Path) -> list[str | Path]:
    """The command that has made the statistics, writing others."""
    return ["calibrate", quantized(DEMO, "int8"), "--text", statistics.parent / "sums.txt", "--ctx", "64", "-o", out]


def test_of_a_long_text_what_is_needed_is_read(quantized: Quantized, tmp_path: Path, home: Path) -> None:
    (tmp_path / "long").write_text((TEXT + "\n") * 2000)
    before = (
        "import cpu_runtime.text.tokenizer as t\nreal, left = t.Tokenizer.encode, 1 << 17\n"
        "def encode(self, text):\n"
        "    global left\n"
        "    left -= len(text)\n"
        "    assert left >= 0, 'more than two pieces of it'\n"
        "    return real(self, text)\n"
        "t.Tokenizer.encode = encode\n"
    )
    arguments = ["--text", tmp_path / "long", "--tokens", "100", "--ctx", "50", "-o", tmp_path / "s"]
    made = moe("calibrate", quantized(DEMO, "int8"), *arguments, home=home, before=before)
    assert made.returncode == 0, made.stderr
    assert "reading 100 tokens" in made.stderr


def test_requests_that_can_not_be(
    quantized: Quantized, statistics: Path, tmp_path: Path, text: Path, home: Path
) -> None:
    model = quantized(DEMO, "int8")
    out = tmp_path / "out"
    check_error(moe("calibrate", model, home=home), 2, "--text")
    check_error(moe("calibrate", "nowhere", "--text", text, "-o", out, home=home), 3, "nowhere")
    check_error(moe("calibrate", model, "--text", tmp_path / "none", "-o", out, home=home), 2, "No such file")
    (tmp_path / "latin").write_bytes(b"caf\xe9 " * 40)
    check_error(moe("calibrate", model, "--text", tmp_path / "latin", "-o", out, home=home), 2, "not UTF-8")
    check_error(moe("calibrate", model, "--text", text, "--ctx", "100000", "-o", out, home=home), 2, "--ctx 100000")
    (tmp_path / "short").write_text("short")
    check_error(moe("calibrate", model, "--text", tmp_path / "short", "-o", out, home=home), 2, "less than one window")
    check_error(moe("calibrate", model, "--text", text, "-o", statistics, home=home), 2, "already exists")
    check_error(moe("calibrate", model, "--text", text, "-o", out / "s", "--ctx", "64", home=home), 5, "can't write")
    assert not out.exists()

    check_error(moe("quantize", DEMO, "--recipe", "int3", home=home), 2, "needs statistics", "moe calibrate")
    check_error(moe("quantize", DEMO, "--stats", tmp_path / "none", home=home), 2, "is no file of statistics")
    check_error(
        moe("quantize", DEMO, "--stats", DEMO / "model.safetensors-00001-of-00002.safetensors", home=home),
        6,
        "no file of",
    )
    other = FIXTURES / "minimax_m2_bf16"
    for more in ([], ["--dry-run"]):
        check_error(moe("quantize", other, "--stats", statistics, *more, home=home), 2, "of another model")
    header, data = header_of(statistics)
    write_safetensors(tmp_path / "nan", header, b"\xff" * len(data))
    check_error(moe("quantize", DEMO, "--stats", tmp_path / "nan", home=home), 6, "no mean squares")
    check_error(moe("pull", "tiny/demo", "--stats", statistics, home=home), 2, "--stats is for quantizing")
    assert not list((home / "models").glob("*")) if (home / "models").exists() else True


def test_a_streamed_pull_that_was_killed_makes_the_same_bytes(statistics: Path, tmp_path: Path, home: Path) -> None:
    source = copy_of(DEMO, tmp_path / "demo")
    arguments = ["--quantize", "int3", "--stats", statistics]
    with serving({"tiny/demo": source}) as hub:
        check_error(
            moe("pull", "tiny/demo", "--quantize", "int3", home=home, HF_ENDPOINT=hub.url), 2, "needs statistics"
        )
        # The small files come first, so that syncs are those of weights.
        assert moe("pull", "tiny/demo", *arguments, "--dry-run", home=home, HF_ENDPOINT=hub.url).returncode == 0
        command = ["pull", "tiny/demo", *map(str, arguments)]
        assert not finished(start(*command, home=home, hub=hub, before=at_call("sync", 20)))[0]
        assert (home / "models" / "demo-int3.partial").exists()
        pulled = moe("pull", "tiny/demo", *arguments, home=home, HF_ENDPOINT=hub.url)
        assert pulled.returncode == 0, pulled.stderr
        again = moe("pull", "tiny/demo", *arguments, home=home, HF_ENDPOINT=hub.url)
        assert "is here already" in again.stderr
        plain = moe("pull", "tiny/demo", "--quantize", "int4", "--out", "demo-int3", home=home, HF_ENDPOINT=hub.url)
        check_error(plain, 2, "already exists")
    made = moe("quantize", source, "--recipe", "int3", "--stats", statistics, "-o", tmp_path / "whole", home=home)
    whole, stream = digests(tmp_path / "whole"), digests(Path(pulled.stdout.strip()))
    assert made.returncode == 0
    assert {n for n in whole if whole[n] != stream[n]} == {"manifest.json"}, "which names the source"


def test_a_size_that_takes_three_bits(statistics: Path, home: Path) -> None:
    check_error(moe("quantize", DEMO, "--bpw", "4.8", home=home), 2, "can't be had", "moe calibrate")
    made = moe("quantize", DEMO, "--bpw", "4.8", "--stats", statistics, "--json", home=home)
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    assert "q3" in found["recipe"]["formats"].values()
    assert found["report"]["total"]["bits_per_weight"] <= 4.8001
    assert found["report"]["calibration"]["text"] == "sums.txt"
    least = moe("quantize", DEMO, "--bpw", "2", "--stats", statistics, home=home)
    check_error(least, 2, "can't be had")
    assert "moe calibrate" not in least.stderr


def test_a_stopped_conversion_says_how_it_goes_on(statistics: Path, tmp_path: Path, home: Path) -> None:
    before = (
        "import os, signal, quant.convert as c\nreal = c.Progress.__init__\n"
        "def stop(self, file, done, *rest):\n"
        "    if done > 2_000_000: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    real(self, file, done, *rest)\n"
        "c.Progress.__init__ = stop\n"
    )
    arguments = ["quantize", DEMO, "--recipe", "int3", "--stats", statistics]
    assert moe(*arguments, home=home, before=before).returncode == -9
    listed = moe("list", "--json", home=home)
    assert f"--recipe int3 --stats {statistics}" in listed.stdout
    assert moe(*arguments, home=home).returncode == 0
