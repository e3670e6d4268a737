"""The `moe` command: runs it and turns every ending into a message and an exit code."""

from __future__ import annotations

import gc
import os
import sys
from io import TextIOWrapper

from quant.errors import EXIT_INTERRUPTED, MoeError

EXIT_BROKEN_PIPE = 141  # the shell's convention for SIGPIPE: 128 + 13


def main() -> None:
    """Run the command line and exit with a documented code (see `quant/errors.py`)."""
    gc.set_threshold(200_000)  # new objects: more than before a first token, where at 700 it is looked for 300 times
    code = run()
    gc.freeze()  # with Numba loaded, the interpreter's last search for garbage takes 0.3 s
    sys.exit(code)


def run() -> int:
    """Run the command line; errors become one line on stderr, with the next step under it."""
    from cli.app import app
    from cli.output import complain

    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names in a downloaded file can hold what is no text
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except MoeError as error:
        complain(str(error), error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        complain("interrupted")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left; the interpreter must not fail on flushing it either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except Exception as error:
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    from cli.output import complain

    exit_code = getattr(error, "exit_code", None)
    if isinstance(exit_code, int) and hasattr(error, "format_message"):  # Typer's own: a wrong option and the like
        complain(error.format_message(), "see: moe --help")
        return exit_code
    if type(error).__name__ == "Abort":
        complain("interrupted")
        return EXIT_INTERRUPTED
    if os.environ.get("MOE_DEBUG"):
        raise error
    complain(f"{type(error).__name__}: {error}", "this is a defect of moe; set MOE_DEBUG=1 for the details")
    return 1


if __name__ == "__main__":
    main()
