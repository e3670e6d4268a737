"""What a line that begins with a slash does in a chat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING

from cli import output, sessions
from quant.errors import UsageError

if TYPE_CHECKING:
    from cli.repl import Repl


class Leave(Exception):
    """The person wants to go."""


def help_(repl: Repl, argument: str) -> None:
    """This list."""
    for name, (_, usage, meaning) in COMMANDS.items():
        if name not in _ALIASES:
            output.say(f"  {f'{name} {usage}':<22} {meaning}")
    output.say('  Alt-Enter, Ctrl-J or a pasted text makes several lines; so does a text between two lines of """')


def bye(repl: Repl, argument: str) -> None:
    """Leave."""
    raise Leave


def clear(repl: Repl, argument: str) -> None:
    """A new conversation."""
    repl.conversation.clear()
    repl.name = sessions.new_name()
    output.say("a new conversation")


def system(repl: Repl, argument: str) -> None:
    """Show, set, or with "none" remove the system message."""
    if argument:
        repl.conversation.set_system("" if argument == "none" else argument)
    output.say(f"system: {repl.conversation.system or '(none)'}")


def set_(repl: Repl, argument: str) -> None:
    """Change one of the sampling parameters, or `think`."""
    name, _, value = argument.partition(" ")
    if not value:
        raise UsageError("write /set NAME VALUE", hint=f"names: think, {', '.join(sorted(_settings(repl)))}")
    if name in ("think", "thinking"):
        if value not in ("on", "off", "auto"):
            raise UsageError(f"think is on, off or auto, not {value!r}")
        repl.conversation.thinking = {"on": True, "off": False, "auto": None}[value]
    else:
        known = _settings(repl)
        name = {"temp": "temperature"}.get(name.replace("-", "_"), name.replace("-", "_"))
        if name not in known:
            raise UsageError(f"there is no setting {name!r}", hint=f"names: think, {', '.join(sorted(known))}")
        repl.conversation.params = repl.conversation.params.replace(**{name: _number(name, value)})
    output.say(f"{name} is {value}")


def _settings(repl: Repl) -> set[str]:
    return {field.name for field in fields(repl.conversation.params)} - {"stop"}


def _number(name: str, value: str) -> float | int | None:
    if name in ("seed", "max_tokens") and value == "none":
        return None
    try:
        return int(value) if name in ("seed", "max_tokens", "top_k", "repeat_last_n") else float(value)
    except ValueError as error:
        raise UsageError(f"{name} is a number, not {value!r}") from error


def show(repl: Repl, argument: str) -> None:
    """The model, the settings and how full the window is."""
    conversation = repl.conversation
    output.say(f"model              {conversation.engine.name}")
    output.say(f"session            {repl.name}")
    output.say(f"system             {conversation.system or '(none)'}")
    output.say(f"think              { {True: 'on', False: 'off', None: 'auto'}[conversation.thinking] }")
    for field in fields(conversation.params):
        output.say(f"{field.name:<18} {getattr(conversation.params, field.name)}")
    output.say(f"context            {conversation.tokens} of {conversation.engine.context} tokens")


def undo(repl: Repl, argument: str) -> None:
    """Take the last question and its answer back."""
    repl.conversation.undo()
    asked = [m["content"] for m in repl.conversation.messages if m["role"] == "user"]
    output.say(f"back after: {asked[-1][:60]}" if asked else "the conversation is empty")


def regen(repl: Repl, argument: str) -> None:
    """Another answer to the last question."""
    repl.answer(repl.conversation.again())


def save(repl: Repl, argument: str) -> None:
    """Keep the conversation under a name."""
    repl.name = argument or repl.name
    output.say(f"saved: {sessions.save(repl.name, repl.conversation.engine.name, repl.conversation.messages)}")


def load(repl: Repl, argument: str) -> None:
    """Go on with a saved conversation."""
    if not argument:
        output.say("saved: " + (", ".join(sessions.names()[:20]) or "none yet"))
        return
    repl.conversation.replace(sessions.load(argument))
    repl.name = argument
    output.say(f"{len(repl.conversation.messages)} messages")


def stats(repl: Repl, argument: str) -> None:
    """Speed of the last answer."""
    output.say(repl.conversation.last.statistics() if repl.conversation.last else "no answer yet")


COMMANDS: dict[str, tuple[Callable[[Repl, str], None], str, str]] = {
    "/help": (help_, "", "this list"),
    "/bye": (bye, "", "leave (so does Ctrl-D)"),
    "/clear": (clear, "", "start a new conversation"),
    "/system": (system, "[TEXT|none]", "show, set or remove the system message"),
    "/set": (set_, "NAME VALUE", "change a setting, such as temperature 0.7 or think off"),
    "/show": (show, "", "the model, the settings, how full the window is"),
    "/undo": (undo, "", "take the last question and its answer back"),
    "/regen": (regen, "", "another answer to the last question"),
    "/save": (save, "[NAME]", "keep the conversation under a name"),
    "/load": (load, "[NAME]", "go on with a saved conversation, or list them"),
    "/stats": (stats, "", "speed of the last answer"),
}
_ALIASES = {"/?": "/help", "/exit": "/bye", "/quit": "/bye"}
COMMANDS |= {alias: COMMANDS[name] for alias, name in _ALIASES.items()}


def run(repl: Repl, line: str) -> None:
    """Carry out a line; raises Leave, UsageError."""
    name, _, argument = line.strip().partition(" ")
    if name not in COMMANDS:
        raise UsageError(f"there is no command {name}", hint="/help lists them; a leading space sends it as a message")
    COMMANDS[name][0](repl, argument.strip())
