"""What does not grow with the model: a token's time with 8 times the experts, and the time to a first token."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.bench.llama.bench import EXPERTS, Bench, Mode, progress
from tests.bench.llama.speed import RATE, TESTS
from tests.bench.llama.table import Row, Sample, Target
from tests.synth import write_model

GROWN = Target("%", least=0.95)
FIRST_TOKEN = Target("s", most=1.5)
IMPORT = Target("s", most=0.7)
MODE = Mode("mmap", True)  # the same for both sizes
ROOT = Path(__file__).parents[3]
DEMO = ROOT / "cli" / "demo"
PROMPT = "What now?"  # 16 tokens, with what the template puts around it
TIMER = """
import subprocess, sys, time
took = []
for turn in range(int(sys.argv[1]) + 1):
    start = time.perf_counter()
    with subprocess.Popen(sys.argv[2:], stdout=subprocess.PIPE) as process:
        process.stdout.read(1)  # nothing, at the end of a process that says nothing
        took.append(time.perf_counter() - start)
        process.stdout.read()
    if process.returncode:
        sys.exit(process.returncode)
print(*took[1:])  # the first warms the caches
"""
FIRST_LAYERS = 24  # of the mapped model, about 8 GB


def rows(bench: Bench) -> list[Row]:
    """Decoding rates of the model with all of its experts over those with an eighth of them."""
    eighth = bench.experts // 8
    pairs = {eighth: bench.pair("eighth", **{EXPERTS[bench.arch]: eighth}), bench.experts: bench.pair()}
    ours, theirs = {n: Sample(RATE) for n in pairs}, {n: Sample(RATE) for n in pairs}
    for _ in range(bench.rounds):
        for n, pair in pairs.items():
            found = bench.ask_ours("in_memory", pair.ours, tests=[TESTS["tg64"]], repetitions=2)
            ours[n].values += found["rates"][0]
            found = bench.ask_theirs(pair.theirs, MODE, tests=[TESTS["tg64"]])
            theirs[n].values += found["rates"][0]
    few, many = pairs
    mine, other = ours[many].median / ours[few].median, theirs[many].median / theirs[few].median
    name = f"decode, {many} experts over {few}"
    return [Row(name, GROWN, mine, f"{ours[many]} over {ours[few]}",
                f"{theirs[many]} over {theirs[few]}, {other:.1%}", str(MODE))]  # fmt: skip


def first_token(bench: Bench) -> list[Row]:
    """Seconds until `moe run` shows a token, from nothing but warm caches, and those of importing the engine."""
    folder = bench.scratch / f"{bench.arch}-first-token"
    if not folder.exists():
        write_model(bench.config(num_hidden_layers=FIRST_LAYERS), folder, sparse=True)
    config = bench.config()
    _write_tokenizer(folder, config.get("text_config", config)["vocab_size"])
    size = sum(file.stat().st_size for file in folder.iterdir())
    run = ["-m", "cli", "run", str(folder), PROMPT, "--thinking", "--max-tokens", "1", "--seed", "0"]
    run += ["--threads", str(bench.threads)]
    whole, imported = _seconds(bench, run), _seconds(bench, ["-c", "import cpu_runtime.engine"])
    return [
        Row(f"`moe run` to the first token, {size / 1e9:.1f} GB mapped", FIRST_TOKEN, whole.median, whole),
        Row("`import cpu_runtime.engine`, a whole process", IMPORT, imported.median, imported),
    ]


def _write_tokenizer(folder: Path, vocab: int) -> None:
    """The demo model's, with a word for every further id, so that whatever token comes is seen."""
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO / name, folder)
    tokenizer = json.loads((DEMO / "tokenizer.json").read_text(encoding="utf-8"))
    known = tokenizer["model"]["vocab"]
    known |= {f"token{i}": i for i in range(len(known) + len(tokenizer["added_tokens"]), vocab)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")


def _seconds(bench: Bench, command: list[str]) -> Sample:
    """Until a Python process says something or ends, several times."""
    progress(f"first token: {' '.join(command)}")
    timed = [sys.executable, "-c", TIMER, str(max(3, bench.rounds)), sys.executable, *command]
    # What is installed comes with bytecode.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [*bench.under, *timed], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    if done.returncode:
        raise SystemExit(f"exit {done.returncode}\n{done.stderr[-2000:]}")
    return Sample("s", [float(took) for took in done.stdout.split()])
