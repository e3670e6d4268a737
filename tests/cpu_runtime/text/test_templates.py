"""What each family's template makes of a conversation; the templates are our own, the texts were typed by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cpu_runtime.text.chat import Chat
from cpu_runtime.text.template import ChatTemplate
from cpu_runtime.text.tokenizer import Tokenizer
from quant.errors import UsageError
from tests.conftest import DEMO, FIXTURES
from tests.cpu_runtime.text.families import SYNTAXES, WEATHER

EACH = pytest.mark.parametrize("family", sorted(SYNTAXES))
TOOL = json.dumps(WEATHER, ensure_ascii=False)
COMPACT_TOOLS = json.dumps([WEATHER], ensure_ascii=False, separators=(",", ":"))

SYSTEM = {"role": "system", "content": "Be brief."}
HI = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello!", "reasoning_content": "A greeting."}
ASK = {"role": "user", "content": "Weather?"}
CALL_ID = "functions.weather:0"
CALL = {
    "role": "assistant",
    "content": None,
    "reasoning_content": "I must look.",
    "tool_calls": [
        {"id": CALL_ID, "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo", "days": 2}'}}
    ],
}
RESULT = {"role": "tool", "tool_call_id": CALL_ID, "content": "snow"}

FIRST = {
    "qwen3_5_moe": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n",
    "glm_moe_dsa": "[gMASK]<sop><|system|>Be brief.<|user|>Hi<|assistant|><think>",
    "kimi_k25": "<|im_system|>system<|im_middle|>Be brief.<|im_end|><|im_user|>user<|im_middle|>Hi<|im_end|>"
    "<|im_assistant|>assistant<|im_middle|><think>",
    "minimax_m2": "]~!b[]~b]system\nBe brief.[e~[\n]~b]user\nHi[e~[\n]~b]ai\n<think>\n",
    "deepseek_v3": "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi<｜Assistant｜><think>\n",
}
QUIET = {
    "qwen3_5_moe": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "glm_moe_dsa": "[gMASK]<sop><|user|>Hi<|assistant|></think>",
    "kimi_k25": "<|im_user|>user<|im_middle|>Hi<|im_end|><|im_assistant|>assistant<|im_middle|><think></think>",
}
SECOND = {
    "qwen3_5_moe": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello!<|im_end|>\n"
    "<|im_start|>user\nWeather?<|im_end|>\n<|im_start|>assistant\n<think>\n",
    "glm_moe_dsa": "[gMASK]<sop><|user|>Hi<|assistant|></think>Hello!<|user|>Weather?<|assistant|><think>",
    "kimi_k25": "<|im_user|>user<|im_middle|>Hi<|im_end|><|im_assistant|>assistant<|im_middle|><think></think>Hello!"
    "<|im_end|><|im_user|>user<|im_middle|>Weather?<|im_end|><|im_assistant|>assistant<|im_middle|><think>",
    "minimax_m2": "]~!b[]~b]system\nYou are a model in a test.[e~[\n]~b]user\nHi[e~[\n]~b]ai\nHello![e~[\n"
    "]~b]user\nWeather?[e~[\n]~b]ai\n<think>\n",
    "deepseek_v3": "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜>Hello!<｜end▁of▁sentence｜>"
    "<｜User｜>Weather?<｜Assistant｜><think>\n",
}
TOOLS = {
    "qwen3_5_moe": f"<|im_start|>system\n<tools>\n{TOOL}\n</tools><|im_end|>\n"
    "<|im_start|>user\nWeather?<|im_end|>\n<|im_start|>assistant\n<think>\nI must look.\n</think>\n\n"
    "<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
    "</function>\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\nsnow\n</tool_response><|im_end|>\n"
    "<|im_start|>assistant\n<think>\n",
    "glm_moe_dsa": f"[gMASK]<sop><|system|><tools>\n{TOOL}\n</tools><|user|>Weather?"
    "<|assistant|><think>I must look.</think><tool_call>weather<arg_key>city</arg_key><arg_value>Oslo</arg_value>"
    "<arg_key>days</arg_key><arg_value>2</arg_value></tool_call>"
    "<|observation|><tool_response>snow</tool_response><|assistant|><think>",
    "kimi_k25": f"<|im_system|>tool_declare<|im_middle|>{COMPACT_TOOLS}<|im_end|>"
    "<|im_user|>user<|im_middle|>Weather?<|im_end|><|im_assistant|>assistant<|im_middle|>"
    "<think>I must look.</think><|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0"
    '<|tool_call_argument_begin|>{"city": "Oslo", "days": 2}<|tool_call_end|><|tool_calls_section_end|><|im_end|>'
    "<|im_system|>tool<|im_middle|>## Return of functions.weather:0\nsnow<|im_end|>"
    "<|im_assistant|>assistant<|im_middle|><think>",
    "minimax_m2": "]~!b[]~b]system\nYou are a model in a test.\n\n<tools>\n"
    f"<tool>{json.dumps(WEATHER['function'], ensure_ascii=False)}</tool>\n</tools>[e~[\n]~b]user\nWeather?[e~[\n"
    "]~b]ai\n<think>\nI must look.\n</think>\n\n<minimax:tool_call>\n"
    '<invoke name="weather">\n<parameter name="city">Oslo</parameter>\n<parameter name="days">2</parameter>\n'
    "</invoke>\n</minimax:tool_call>[e~[\n]~b]tool\n<response>snow</response>[e~[\n]~b]ai\n<think>\n",
    # This one's template lists no tools; and the model goes on after a result without a tag.
    "deepseek_v3": "<｜begin▁of▁sentence｜><｜User｜>Weather?<｜Assistant｜><｜tool▁calls▁begin｜><｜tool▁call▁begin｜>"
    'function<｜tool▁sep｜>weather\n```json\n{"city": "Oslo", "days": 2}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
    "<｜end▁of▁sentence｜><｜tool▁outputs▁begin｜><｜tool▁output▁begin｜>snow<｜tool▁output▁end｜><｜tool▁outputs▁end｜>",
}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(DEMO)


@pytest.fixture
def chat(family: str, tokenizer: Tokenizer) -> Chat:
    source = (FIXTURES / "templates" / f"{family}.jinja").read_text(encoding="utf-8")
    return Chat(ChatTemplate(source, f"{family}.jinja"), tokenizer, SYNTAXES[family])


@EACH
def test_system_and_user(family: str, chat: Chat) -> None:
    prompt = chat.prompt([SYSTEM, HI])
    assert prompt.text == FIRST[family]
    assert prompt.in_reasoning
    assert chat.prompt([SYSTEM, HI], thinking=True).text == prompt.text


@EACH
def test_thinking_off(family: str, chat: Chat) -> None:
    if family in QUIET:
        prompt = chat.prompt([HI], thinking=False)
        assert prompt.text == QUIET[family]
        assert not prompt.in_reasoning
    else:
        with pytest.raises(UsageError, match="always thinks"):
            chat.prompt([HI], thinking=False)


@EACH
def test_earlier_reasoning_is_not_shown_again(family: str, chat: Chat) -> None:
    prompt = chat.prompt([HI, HELLO, ASK])
    assert prompt.text == SECOND[family]
    assert "A greeting" not in prompt.text


@EACH
def test_a_call_and_its_result(family: str, chat: Chat) -> None:
    tools = None if family == "deepseek_v3" else [WEATHER]
    prompt = chat.prompt([ASK, CALL, RESULT], tools=tools)
    assert prompt.text == TOOLS[family]
    assert prompt.in_reasoning == (family != "deepseek_v3")
    assert prompt.tools == (tools or [])


@EACH
def test_reasoning_before_a_call_is_gone_after_the_next_question(family: str, chat: Chat) -> None:
    text = chat.prompt([ASK, CALL, RESULT, HELLO, HI]).text
    assert "I must look" not in text
    assert "A greeting" not in text
    assert text.index("weather") < text.index("snow") < text.index("Hello!")


@EACH
def test_the_next_turn_repeats_the_stable_part(family: str, chat: Chat) -> None:
    first = chat.prompt([SYSTEM, ASK])
    for later in ([SYSTEM, ASK, CALL, RESULT], [SYSTEM, ASK, HELLO, HI]):
        second = chat.prompt(later)
        assert 0 < first.stable < len(first.ids)
        assert second.ids[: first.stable] == first.ids[: first.stable]


@EACH
def test_a_question_that_ends_in_a_tag_is_no_thinking(family: str, chat: Chat) -> None:
    if family in QUIET:
        assert not chat.prompt([{"role": "user", "content": "What is <think>"}], thinking=False).in_reasoning


def test_tools_for_a_template_without(tokenizer: Tokenizer) -> None:
    source = (FIXTURES / "templates" / "deepseek_v3.jinja").read_text(encoding="utf-8")
    chat = Chat(ChatTemplate(source, "t"), tokenizer, SYNTAXES["deepseek_v3"])
    with pytest.raises(UsageError, match="takes no tools"):
        chat.prompt([HI], tools=[WEATHER])


def test_a_switch_that_the_template_has(tokenizer: Tokenizer) -> None:
    """Models of one family differ: R1 always thinks, V3.1 can be told."""
    source = "{% if not thinking is defined %}{% set thinking = false %}{% endif %}{{ '<think>' if thinking else 'x' }}"
    chat = Chat(ChatTemplate(source, "t"), tokenizer, SYNTAXES["deepseek_v3"])
    assert chat.prompt([HI], thinking=True).in_reasoning
    assert chat.prompt([HI], thinking=False).text == "x"
    assert chat.prompt([HI]).text == "x"


def call(arguments: Any, name: Any = "f") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "function": function}]}


@pytest.mark.parametrize(
    "wrong",
    [
        call("{"),
        call("[1]"),
        call('{"a": NaN}'),
        call('{"a": "\\udcff"}'),
        call(7),
        call("{}", name=None),
        {"role": "assistant", "content": "x", "tool_calls": "f"},
        {"role": "assistant", "content": "x", "tool_calls": ["f"]},
        {"role": "user", "content": "x", "tool_calls": [{}]},
        {"role": "user", "content": None},
        {"role": "tool", "content": "x"},
        {"role": "assistant", "content": "x", "reasoning_content": 3},
        {"role": "user", "content": "\udcff"},
    ],
    ids=ascii,
)
@EACH
def test_messages_that_can_not_be(family: str, chat: Chat, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"messages\[1\]|not text"):
        chat.prompt([HI, wrong])


@pytest.mark.parametrize("family", ["qwen3_5_moe"])
@pytest.mark.parametrize(
    "wrong", [3, {}, {"type": "function"}, {"type": "function", "function": {"name": "f", "parameters": [1]}}], ids=str
)
def test_tools_that_can_not_be(family: str, chat: Chat, wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"tools\[1\]"):
        chat.prompt([HI], tools=[WEATHER, wrong])


@EACH
def test_arguments_given_as_an_object(family: str, chat: Chat) -> None:
    as_text, as_object = (chat.prompt([HI, call(given)]).text for given in ('{"a": "é"}', {"a": "é"}))
    assert as_text == as_object


@pytest.mark.parametrize("family", ["kimi_k25", "deepseek_v3"])
def test_arguments_as_text_stay_as_the_model_wrote_them(family: str, chat: Chat) -> None:
    assert '{ "a":1}' in chat.prompt([HI, call('{ "a":1}')]).text
