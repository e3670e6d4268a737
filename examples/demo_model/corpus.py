"""The training text: conversations composed from stories, sums, talk about the tool and small talk.

Deterministic: conversation n of a split is a function of n alone. Everything here was written for this purpose.
"""

from __future__ import annotations

from random import Random

from arithmetic import arithmetic
from exchange import Exchange
from stories import story
from talk import fact, memory, small_talk, tool, unknown

SPLITS = {"train": 0, "held-out": 1}
TOPICS = (
    (arithmetic, 0.34),
    (story, 0.27),
    (tool, 0.13),
    (small_talk, 0.07),
    (fact, 0.07),
    (memory, 0.08),
    (unknown, 0.04),
)
SYSTEM = ("You are a helpful assistant.", "You are the demo model of moe.", "Be brief.", "Answer in plain English.",
          "You are a friendly assistant. Keep your answers short.")  # fmt: skip
THINKING_SHARE = 0.7


def _topic(random: Random) -> list[Exchange]:
    makers, weights = zip(*TOPICS, strict=True)
    return random.choices(makers, weights)[0](random)


def _exchanges(random: Random) -> list[Exchange]:
    exchanges = _topic(random)
    while random.random() < 0.3 and len(exchanges) < 6:
        other = _topic(random)
        if len(other) == 2 and random.random() < 0.5:  # come back to what was said after something else
            exchanges = [other[0], *exchanges, other[1]]
        else:
            exchanges += other
    return exchanges


def conversation(split: str, number: int) -> tuple[list[dict[str, str]], bool]:
    """Messages of conversation `number`, the last by the assistant, and whether it thinks first.

    The last message may carry `reasoning_content`; the earlier ones do not, because chat templates drop it.
    """
    random = Random(2 * number + SPLITS[split])
    exchanges = _exchanges(random)
    exchanges = exchanges[: random.randint(1, len(exchanges))] if random.random() < 0.4 else exchanges
    thinking = random.random() < THINKING_SHARE
    messages = []
    if random.random() < 0.15:
        messages.append({"role": "system", "content": random.choice(SYSTEM)})
    for exchange in exchanges:
        messages.append({"role": "user", "content": exchange.user})
        messages.append({"role": "assistant", "content": exchange.answer})
    if thinking:
        messages[-1]["reasoning_content"] = exchanges[-1].thought
    elif exchanges[-1].aloud:
        messages[-1]["content"] = f"{exchanges[-1].thought} {exchanges[-1].answer}"
    return messages, thinking
