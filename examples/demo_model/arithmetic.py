"""Additions and subtractions of one- and two-digit numbers, worked digit by digit in the model's thinking."""

from __future__ import annotations

from random import Random

from exchange import Exchange

ASK_SUM = (
    "what is {a} + {b}?", "What is {a} + {b}?", "what's {a} + {b}", "{a} + {b}", "{a} + {b} = ?", "{a}+{b}", "{a}+{b}=",
    "How much is {a} plus {b}?", "how much is {a} + {b}?", "how much is {a} plus {b}", "Please add {a} and {b}.",
    "Add {a} and {b}", "add {a} to {b}", "Can you compute {a} + {b}?", "Calculate {a} plus {b}, please.",
    "What do you get if you add {a} and {b}?", "What is the sum of {a} and {b}?", "what does {a} plus {b} make?",
    "I have {a} apples and buy {b} more. How many apples do I have now?", "Tell me {a} plus {b}.",
)  # fmt: skip
ASK_DIFFERENCE = (
    "what is {a} - {b}?", "What is {a} - {b}?", "{a} - {b}", "{a}-{b}=", "How much is {a} minus {b}?",
    "what's {a} minus {b}", "Take {b} away from {a}.", "Subtract {b} from {a}.", "Calculate {a} - {b}, please.",
    "I have {a} apples and eat {b}. How many are left?",
)  # fmt: skip
ASK_MORE = ("and plus {b}?", "And plus {b}?", "now add {b}", "Now add {b} to that.", "plus {b}?", "add {b} more")


def held_out(a: int, b: int) -> bool:
    """Whether the sum of a and b, in either order, is kept out of training: one pair in ten."""
    low, high = sorted((a, b))
    return (low * 7919 + high * 104_729) % 997 % 10 == 3


def work_sum(a: int, b: int) -> str:
    """The digit-by-digit working of a + b."""
    ones = a % 10 + b % 10
    carry = ones // 10
    lines = f"Ones: {a % 10} + {b % 10} = {ones}"
    if a < 10 and b < 10:
        return f"{lines}."
    lines += f", write {ones % 10}, carry {carry}."
    tens = a // 10 + b // 10 + carry
    return f"{lines} Tens: {a // 10} + {b // 10} + {carry} = {tens}. So {a + b}."


def work_difference(a: int, b: int) -> str:
    """The digit-by-digit working of a - b for a >= b."""
    borrow = int(a % 10 < b % 10)
    ones = a % 10 + 10 * borrow - b % 10
    first = f"Ones: {a % 10 + 10 * borrow} - {b % 10} = {ones}, borrow {borrow}."
    if a < 10:
        return f"Ones: {a} - {b} = {a - b}."
    return f"{first} Tens: {a // 10} - {b // 10} - {borrow} = {a // 10 - b // 10 - borrow}. So {a - b}."


def _number(random: Random) -> int:
    return random.randrange(10) if random.random() < 0.25 else random.randrange(100)


def addition(random: Random, ask: tuple[str, ...] = ASK_SUM, first: int | None = None) -> Exchange:
    """An addition that is not held out; `first` continues from an earlier result."""
    while True:
        a, b = (_number(random) if first is None else first), _number(random)
        if not held_out(a, b):
            break
    total = a + b
    answer = random.choice((f"{a} + {b} = {total}.", f"{a} + {b} = {total}.", f"{a} plus {b} is {total}."))
    ask_text = random.choice(ask).format(a=a, b=b)
    if "apples" in ask_text:
        answer = f"You have {total} apples now."
    return Exchange(ask_text, work_sum(a, b), answer, result=total, aloud=a > 9 or b > 9)


def subtraction(random: Random) -> Exchange:
    """A subtraction with a result of zero or more."""
    b, a = sorted((_number(random), _number(random)))
    ask = random.choice(ASK_DIFFERENCE).format(a=a, b=b)
    answer = f"You have {a - b} apples left." if "apples" in ask else f"{a} - {b} = {a - b}."
    return Exchange(ask, work_difference(a, b), answer, result=a - b, aloud=a > 9)


def arithmetic(random: Random) -> list[Exchange]:
    """One sum or difference, sometimes continued from its result."""
    first = subtraction(random) if random.random() < 0.15 else addition(random)
    exchanges = [first]
    while exchanges[-1].result is not None and exchanges[-1].result < 90 and random.random() < 0.2:
        exchanges.append(addition(random, ASK_MORE, exchanges[-1].result))
    return exchanges
