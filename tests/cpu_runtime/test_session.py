"""Sessions and generation on the demo model: what is remembered, and that it makes no difference to the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from cpu_runtime import Done, Engine, Event, Piece, Prefill, SamplingParams, Session, ToolCall
from cpu_runtime.session import ContextError
from quant.errors import UsageError
from tests.conftest import DEMO, Quantized
from tests.cpu_runtime.text.families import CALLS, WEATHER, WRITTEN

GREEDY = SamplingParams(temperature=0, max_tokens=40)


@pytest.fixture(scope="module")
def engine(quantized: Quantized) -> Iterator[Engine]:
    with Engine.open(quantized(DEMO, "int4"), context=600) as opened:
        yield opened


def ids(engine: Engine, text: str) -> list[int]:
    return engine.chat.prompt([{"role": "user", "content": text}]).ids


def answer(session: Session, prompt: list[int], params: SamplingParams = GREEDY, stable: int = 0) -> Done:
    return next(e for e in session.generate(prompt, params, in_reasoning=True, stable=stable) if isinstance(e, Done))


def test_events_come_in_order(engine: Engine) -> None:
    events = list(engine.session().generate(ids(engine, "Who are you?"), GREEDY, in_reasoning=True))
    kinds = [type(event) for event in events]
    assert kinds == sorted(kinds, key=[Prefill, Piece, Done].index)
    assert isinstance(events[-1], Done)
    text = "".join(e.text for e in events if isinstance(e, Piece) and e.channel == "content")
    assert engine.tokenizer.decode(events[-1].token_ids).endswith(text)
    assert events[-1].usage.completion_tokens == len(events[-1].token_ids)


@pytest.fixture
def script(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bool], list[Event]]:
    """script(text, ends): the events where the model says this text, and then ends its turn or goes on."""

    def run(text: str, ends: bool) -> list[Event]:
        said = iter(engine.tokenizer.encode(text) + [min(engine.tokenizer.stop_ids)] * ends)
        monkeypatch.setattr("cpu_runtime.generate.Sampler.next", lambda *_: next(said))
        limit = GREEDY.replace(max_tokens=None if ends else len(engine.tokenizer.encode(text)))
        return list(engine.session().generate(ids(engine, "Hi"), limit, in_reasoning=True, tools=[WEATHER]))

    return run


@pytest.mark.parametrize("ends", [True, False])
def test_tool_calls(script: Callable[[str, bool], list[Event]], ends: bool) -> None:
    events = script(f"Hm.\n</think>\n\nLet me look.\n\n{WRITTEN['qwen3_5_moe']}", ends)
    calls = [event for event in events if isinstance(event, ToolCall)]
    assert [(call.name, call.arguments) for call in calls] == CALLS
    text = {"reasoning": "", "content": ""}
    for event in events:
        if isinstance(event, Piece):
            text[event.channel] += event.text
    assert text == {"reasoning": "Hm.", "content": "Let me look."}
    assert isinstance(events[-1], Done)
    assert events[-1].finish_reason == ("tool_calls" if ends else "length")


def test_a_turn_without_a_whole_call(script: Callable[[str, bool], list[Event]]) -> None:
    events = script("</think>" + WRITTEN["qwen3_5_moe"][:60], True)
    assert "".join(e.text for e in events if isinstance(e, Piece)) == WRITTEN["qwen3_5_moe"][:60]
    assert isinstance(events[-1], Done)
    assert events[-1].finish_reason == "stop"


def test_a_long_prompt_is_read_in_chunks_to_the_same_end(engine: Engine) -> None:
    prompt = (ids(engine, "Tell me a story.") * 40)[:570]
    chunked = answer(engine.session(), prompt, GREEDY.replace(max_tokens=10))
    session = engine.session()
    for token in prompt[:-1]:
        session.advance([token])
    assert answer(session, prompt, GREEDY.replace(max_tokens=10)).token_ids == chunked.token_ids


def test_a_conversation_is_not_read_again(engine: Engine) -> None:
    messages = [{"role": "user", "content": "Tell me a story about a fox."}]
    session, first = engine.session(), engine.chat.prompt(messages)
    said = answer(session, first.ids, stable=first.stable)
    text = engine.tokenizer.decode(said.token_ids).partition("</think>")[2].strip()
    messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "What is the fox called?"}]
    second = engine.chat.prompt(messages)
    remembered = answer(session, second.ids, stable=second.stable)
    assert remembered.usage.cached_tokens == first.stable
    assert remembered.token_ids == answer(engine.session(), second.ids).token_ids


def test_going_on_from_where_an_answer_ended(engine: Engine) -> None:
    session, prompt = engine.session(), ids(engine, "Who are you?")
    said = answer(session, prompt, GREEDY.replace(max_tokens=5))
    longer = prompt + said.token_ids
    done = answer(session, longer)
    assert done.usage.cached_tokens == len(longer) - 1
    assert done.token_ids == answer(engine.session(), longer).token_ids


def test_an_answer_that_is_closed_leaves_a_sound_session(engine: Engine) -> None:
    session, prompt = engine.session(), ids(engine, "Tell me a story.")
    events = session.generate(prompt, GREEDY, in_reasoning=True)
    for event in events:
        if isinstance(event, Piece):
            break
    events.close()  # type: ignore[attr-defined]
    assert answer(session, prompt).token_ids == answer(engine.session(), prompt).token_ids


def test_an_interrupted_computation_forgets(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    session, prompt = engine.session(), ids(engine, "Who are you?")
    answer(session, prompt)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cpu_runtime.layers.moe.weighted_sum", interrupt)
    with pytest.raises(KeyboardInterrupt):
        answer(session, ids(engine, "What is 2 + 2?"))
    monkeypatch.undo()
    assert session.tokens == []
    assert answer(session, prompt).token_ids == answer(engine.session(), prompt).token_ids


def test_the_same_seed_gives_the_same_text(engine: Engine) -> None:
    params = SamplingParams(temperature=1.0, seed=11, max_tokens=30)
    prompt = ids(engine, "Tell me a story.")
    first, second = (answer(engine.session(), prompt, params).token_ids for _ in range(2))
    other = answer(engine.session(), prompt, params.replace(seed=12)).token_ids
    assert first == second != other


def test_stop_strings_and_limits(engine: Engine) -> None:
    prompt = ids(engine, "Who are you?")
    events = list(engine.session().generate(prompt, GREEDY.replace(stop=("demo",), max_tokens=None), in_reasoning=True))
    text = "".join(e.text for e in events if isinstance(e, Piece))
    assert "demo" not in text
    assert isinstance(events[-1], Done)
    assert events[-1].finish_reason == "stop"
    short = answer(engine.session(), prompt, GREEDY.replace(max_tokens=3))
    assert (len(short.token_ids), short.finish_reason) == (3, "length")
    assert answer(engine.session(), prompt, GREEDY.replace(max_tokens=0)).token_ids == []


def test_the_window_ends_an_answer(engine: Engine) -> None:
    prompt = (ids(engine, "Tell me a story.") * 40)[:590]
    done = answer(engine.session(), prompt, SamplingParams(temperature=0))
    assert len(done.token_ids) <= 10


@pytest.mark.parametrize(
    ("prompt", "error"), [([], UsageError), ([-1], UsageError), ([10**6], UsageError), ([5] * 601, ContextError)]
)
def test_prompts_that_can_not_be(engine: Engine, prompt: list[int], error: type[Exception]) -> None:
    with pytest.raises(error):
        answer(engine.session(), prompt)
    with pytest.raises(error):
        list(engine.logits(prompt))


@pytest.mark.parametrize("recipe", ["int8", "int4"])
def test_quantized_logits_are_near_those_of_bf16(quantized: Quantized, recipe: str) -> None:
    with Engine.open(quantized(DEMO, "bf16")) as exact, Engine.open(quantized(DEMO, recipe)) as rounded:
        prompt = ids(exact, "What is 27 + 58?")
        expected, found = (np.concatenate(list(e.logits(prompt))) for e in (exact, rounded))
    assert np.corrcoef(expected.ravel(), found.ravel())[0, 1] > (0.999 if recipe == "int8" else 0.97)


def test_threads_do_not_change_the_answer(quantized: Quantized, engine: Engine) -> None:
    prompt = ids(engine, "Tell me a story about a cat.")
    expected = answer(engine.session(), prompt).token_ids
    with Engine.open(quantized(DEMO, "int4"), threads=1) as alone:
        assert answer(alone.session(), prompt).token_ids == expected
