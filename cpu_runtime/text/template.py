"""A model's chat template: messages to the text that the model expects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quant.checkpoint import read_json
from quant.errors import CheckpointError, UsageError

LARGEST_TEMPLATE = 1 << 20  # characters; the largest published ones have some thousands


class ChatTemplate:
    """A compiled template; `name` is the file it came from."""

    def __init__(self, source: str, name: str) -> None:
        # Imported here: Jinja takes a tenth of a second, and logits of plain ids need none of it.
        from cpu_runtime.text.sandbox import Sandbox

        self._name = name
        self._sandbox = Sandbox()
        if len(source) > LARGEST_TEMPLATE:
            raise CheckpointError(f"{name}: a chat template of {len(source)} characters")
        try:
            self._template = self._sandbox.from_string(source)
            self._names = self._sandbox.names(source)
        except Exception as error:  # untrusted source: whatever the compiler says of it, the template is at fault
            line = getattr(error, "lineno", None)
            raise self._fault(f"line {line}: {error}" if line else str(error)) from error

    @classmethod
    def load(cls, folder: Path) -> ChatTemplate:
        """The template of a model folder, from whichever file holds it; raises CheckpointError where none does."""
        path = folder / "chat_template.jinja"
        if path.exists():
            try:
                return cls(path.read_text(encoding="utf-8"), path.name)
            except (OSError, UnicodeDecodeError) as error:
                raise CheckpointError(f"{path.name}: {error}", hint="pull the model again") from error
        for file in ("chat_template.json", "tokenizer_config.json"):
            if (folder / file).exists():
                source = _default(read_json(folder / file).get("chat_template"))
                if source is not None:
                    return cls(source, file)
        raise CheckpointError(
            f"{folder.name} has no chat template", hint="it may be a base model: moe run MODEL --tokens FILE.json"
        )

    def reads(self, variable: str) -> bool:
        """Whether the template looks at a variable of this name."""
        return variable in self._names

    def render(self, **variables: Any) -> str:
        """The rendered text; raises UsageError with the template's own complaint, CheckpointError for a faulty one."""
        from cpu_runtime.text.sandbox import Refused

        self._sandbox.start()
        try:
            return "".join(self._template.generate(**variables))
        except Refused as error:
            raise UsageError(f"the chat template refuses these messages: {error}") from error
        except Exception as error:  # an untrusted program: any failure inside it is the template's
            raise self._fault(str(error) or type(error).__name__) from error

    def _fault(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self._name}: {what}", hint="the model's chat template is faulty or hostile")


def _default(value: Any) -> str | None:
    """A template given as text, or the default one of a list of named templates."""
    if isinstance(value, list):
        value = {t.get("name"): t.get("template") for t in value if isinstance(t, dict)}.get("default")
    return value if isinstance(value, str) else None
