"""The chat at a terminal: read a message, show the answer, save the conversation, again."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cli import output, sessions, slash
from cli.answer import show
from cli.conversation import Conversation
from quant.errors import MoeError, UsageError

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

    from cpu_runtime.events import Event

QUOTES = '"""'


class Repl:
    """A conversation at a terminal under a name that it is saved by after each turn."""

    def __init__(self, conversation: Conversation, name: str | None = None) -> None:
        self.conversation = conversation
        self.name = name or sessions.new_name()

    def run(self) -> None:
        """Go on until the person leaves."""
        prompt = _prompt()
        while True:
            try:
                line = prompt.prompt(">>> ", prompt_continuation="... ")
            except KeyboardInterrupt:
                output.say("Ctrl-D or /bye leaves")
                continue
            except EOFError:
                return
            try:
                self.take(line)
            except slash.Leave:
                return
            except MoeError as error:
                output.complain(str(error), error.hint)

    def take(self, line: str) -> None:
        """Carry out one input: a command, or a message to answer."""
        text = line.strip()
        if text.startswith(QUOTES):
            text = text.removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")
        elif line.startswith("/"):
            slash.run(self, line)
            return
        if text:
            self.answer(self.conversation.ask(text))

    def answer(self, events: Iterator[Event]) -> None:
        """Show an answer as it comes and keep it, interrupted or not."""
        answer = show(events)
        self.conversation.keep(answer)
        output.say(answer.statistics())
        sessions.save(self.name, self.conversation.engine.name, self.conversation.messages)


def _prompt() -> PromptSession[str]:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    history = InMemoryHistory() if os.environ.get("MOE_NOHISTORY") else FileHistory(str(_history_file()))
    return PromptSession(
        history=history,
        multiline=True,
        key_bindings=_keys(),
        placeholder=[("class:placeholder fg:ansibrightblack", "Message (/help for help)")],
    )


def _history_file() -> Path:
    from platformdirs import user_state_path

    own = os.environ.get("MOE_HOME")
    path = (Path(own) if own else user_state_path("moe", appauthor=False)) / "history"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_APPEND, 0o600))
    except OSError as error:
        raise UsageError(f"can't write {path}: {error.strerror}", hint="set MOE_NOHISTORY=1 to do without") from error
    return path


def _keys() -> KeyBindings:
    """Enter sends; Alt-Enter and Ctrl-J begin a new line, and so does Enter inside quotes that are still open."""
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def _(event: KeyPressEvent) -> None:
        text = event.current_buffer.text.strip()
        open_quotes = text.startswith(QUOTES) and (text.count(QUOTES) < 2 or not text.endswith(QUOTES))
        if open_quotes:
            event.current_buffer.insert_text("\n")
        else:
            event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def _(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    return keys


def at_a_terminal() -> bool:
    """Whether there is someone to talk to."""
    return sys.stdin.isatty() and sys.stdout.isatty()
