"""The `tensorkeep` command: one file per subcommand.

Exit codes: 0 fine, 1 a difference or damage was found, 2 usage or unreadable input,
130 interrupted, 141 whoever read the output went away.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from tensorkeep import __version__
from tensorkeep.cli.terminal import fail, problem_of, say, say_json, warn
from tensorkeep.errors import TensorKeepError

# Every command gives its exit code.
Command = Callable[..., int]

# In the order of the help. A command's module is imported when it is the one that was given.
COMMANDS = (
    *("ls", "show", "view", "convert", "copy", "diff", "verify", "check", "run", "edit", "meta"),
    *("ops", "data", "checkpoints", "consolidate", "demo"),
)
_CODES = "Exit codes: 0 fine, 1 a difference or damage was found, 2 usage or unreadable input."


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; always ends by SystemExit."""
    for name in ("stdout", "stderr"):  # None where the shell has closed it
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a letter is no error
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    given = sys.argv[1:] if arguments is None else list(arguments)
    named = given[:1] if given[:1] and given[0] in COMMANDS else list(COMMANDS)
    _app(named)(given, prog_name="tensorkeep")


def _app(names: Sequence[str]) -> typer.Typer:
    # Drawing help and tracebacks with rich would take as long as all the rest of the start.
    app = typer.Typer(
        help="Save, load, convert and inspect the state of neural networks.",
        epilog=_CODES,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    app.callback()(_options)
    for name in names:
        command = getattr(import_module(f"{__name__}.{name}"), name)
        app.command()(_guarded(command))
    return app


def _guarded(command: Command) -> Callable[..., None]:
    """Turn what a command gives or raises into an exit code and a message without a traceback."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        try:
            code = command(*args, **options)
            sys.stdout.flush()
        except TensorKeepError as error:
            code = 2
            if options.get("as_json"):
                say_json({"error": problem_of(error)})
            fail(error)
        except KeyboardInterrupt:
            code = 130
            warn("interrupted")
        except BrokenPipeError:
            code = 141
            # Python flushes stdout once more when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:
            code = 2
            warn(f"error: {error.strerror or error}")
        raise typer.Exit(code)

    return run


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"tensorkeep {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and stop."
        ),
    ] = False,
) -> None:
    pass
