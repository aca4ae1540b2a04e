"""The `tensorkeep` command: one file per subcommand.

Exit codes: 0 fine, 1 a difference or damage was found, 2 usage or unreadable input,
130 interrupted, 141 whoever read the output went away.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from tensorkeep import __version__
from tensorkeep.cli.checkpoints import checkpoints
from tensorkeep.cli.convert import convert
from tensorkeep.cli.demo import demo
from tensorkeep.cli.diff import diff
from tensorkeep.cli.ls import ls
from tensorkeep.cli.ops import ops
from tensorkeep.cli.show import show
from tensorkeep.cli.terminal import fail, problem_of, say, say_json, warn
from tensorkeep.cli.verify import verify
from tensorkeep.errors import TensorKeepError

# Every command gives its exit code.
Command = Callable[..., int]

# Drawing help and tracebacks with rich would take as long as all the rest of the start.
app = typer.Typer(
    help="Save, load, convert and inspect the state of neural networks.",
    epilog="Exit codes: 0 fine, 1 a difference or damage was found, 2 usage or unreadable input.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; always ends by SystemExit."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a letter is no error
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="backslashreplace")
    app(arguments, prog_name="tensorkeep")


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


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and stop."
        ),
    ] = False,
) -> None:
    pass


for _command in (ls, show, convert, diff, verify, ops, checkpoints, demo):
    app.command()(_guarded(_command))
