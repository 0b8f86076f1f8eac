"""The application: subcommands, flags that hold for all of them, and what becomes of errors."""

from __future__ import annotations

import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from tilewright import __version__, config
from tilewright.cli import (
    bench,
    calibrate,
    check,
    compile,
    doctor,
    explain,
    inspect,
    ops,
    profile,
    records,
    tune,
)
from tilewright.cli import run as run_command
from tilewright.cli.common import error_console
from tilewright.errors import OptionError, TilewrightError

#: Exit code for a defect of tilewright itself (EX_SOFTWARE of sysexits.h), apart from the documented ones.
EXIT_DEFECT = 70
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tilewright {__version__}")
        raise typer.Exit


def _flag(name: str) -> Any:
    """The typer option of one field of :class:`tilewright.config.Options`."""
    flag, data = next((flag, f.metadata) for flag, f in config.Options.flags().items() if f.name == name)
    text = f"{data['help']} [env: {data['env']}; default: {data['default']}]"
    return typer.Option(flag, help=text, show_default=False)


class _Interrupted(Exception):
    """Ctrl-C, on its way past typer, which would turn KeyboardInterrupt into exit code 1."""


def _interruptible(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except KeyboardInterrupt:
            raise _Interrupted from None

    return call


app = typer.Typer(
    name="tilewright",
    help="Compile deep-learning models to fast native code.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    epilog="Exit codes: 0 ok, 1 a check failed, 2 usage or bad input, 130 interrupted.",
)
for command in (compile, run_command, check, bench, tune, profile, explain, inspect, doctor, calibrate, ops):
    app.command(command.NAME)(_interruptible(command.main))
group = typer.Typer(help=records.HELP, no_args_is_help=True, rich_markup_mode=None)
for name, function in records.COMMANDS.items():
    group.command(name)(_interruptible(function))
app.add_typer(group, name=records.NAME)


@app.callback()
def _options(
    cache_dir: Annotated[str | None, _flag("cache_dir")] = None,
    jobs: Annotated[str | None, _flag("jobs")] = None,
    no_cache: Annotated[bool, _flag("cache")] = False,
    no_fast_conv: Annotated[bool, _flag("fast_conv")] = False,
    follow_links: Annotated[bool, _flag("follow_links")] = False,
    max_tensor_bytes: Annotated[str | None, _flag("max_tensor_bytes")] = None,
    max_fold_bytes: Annotated[str | None, _flag("max_fold_bytes")] = None,
    max_fold_work: Annotated[str | None, _flag("max_fold_work")] = None,
    max_nodes: Annotated[str | None, _flag("max_nodes")] = None,
    max_nesting: Annotated[str | None, _flag("max_nesting")] = None,
    max_computed: Annotated[str | None, _flag("max_computed")] = None,
    max_steering: Annotated[str | None, _flag("max_steering")] = None,
    max_variants: Annotated[str | None, _flag("max_variants")] = None,
    store: Annotated[str | None, _flag("store")] = None,
    choose: Annotated[str | None, _flag("choose")] = None,
    debug: Annotated[bool, _flag("debug")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Flags of the whole program; they may stand before or after the subcommand."""
    changes: dict[str, Any] = {"cache_dir": cache_dir, "jobs": jobs}
    changes |= {"cache": False if no_cache else None, "debug": True if debug else None}
    changes |= {"fast_conv": False if no_fast_conv else None, "follow_links": True if follow_links else None}
    changes |= {"max_tensor_bytes": max_tensor_bytes, "max_nodes": max_nodes, "max_nesting": max_nesting}
    changes |= {"max_fold_bytes": max_fold_bytes, "max_fold_work": max_fold_work}
    changes |= {"max_computed": max_computed, "max_steering": max_steering, "max_variants": max_variants}
    changes |= {"store": store, "choose": choose}
    config.use(config.Options.from_environment(**changes))


def run(argv: list[str]) -> int:
    """Run one command line; the exit code. Every expected error becomes one message on standard error."""
    argv = _hoist(argv)
    try:
        app(argv, prog_name="tilewright", standalone_mode=True)
    except SystemExit as finished:
        code = finished.code
        return code if isinstance(code, int) else 0
    except (KeyboardInterrupt, _Interrupted):
        error_console().print("interrupted", style="bold", highlight=False)
        return EXIT_INTERRUPTED
    except TilewrightError as error:
        return _report(str(error), error.exit_code, _debugging(argv))
    except MemoryError as error:
        text = (
            f"not enough memory: {error}\n  hint: give smaller shapes (--shape), or fewer threads (--threads)"
        )
        return _report(text, 2, _debugging(argv))
    except BrokenPipeError:
        # The reader (head, less) has gone. Point stdout at nothing, or flushing it at exit fails again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        text = f"{error.strerror or error}" + (f": {error.filename}" if error.filename else "")
        if error.errno == errno.ENOSPC:
            text += "\n  hint: the disk is full; free some space, or move the cache with --cache-dir"
        return _report(text, 2, _debugging(argv))
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = (
            f"this is a defect of tilewright: {type(error).__name__}: {error}\n"
            f"  at: {last.name}, line {last.lineno} of {last.filename}\n"
            "  hint: --debug shows the whole traceback; please report it with the model"
        )
        return _report(text, EXIT_DEFECT, _debugging(argv))
    return 0


def _debugging(argv: Sequence[str]) -> bool:
    """Whether tracebacks are wanted; not where that is part of the options that are wrong."""
    try:
        return "--debug" in argv or config.options().debug
    except OptionError:
        return False


def _report(text: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    console = error_console()
    console.print("error:", style="bold red", end=" ", highlight=False)
    console.print(text, markup=False, highlight=False, soft_wrap=True)
    return code


def _hoist(argv: list[str]) -> list[str]:
    """Move the program's own flags, wherever they stand, before the subcommand."""
    fields = config.Options.flags()
    front: list[str] = []
    rest: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            rest += [word, *words]
            break
        flag, equals, _ = word.partition("=")
        if flag not in fields:
            rest.append(word)
            continue
        front.append(word)
        if fields[flag].type != "bool" and not equals:
            front += [value for value in [next(words, None)] if value is not None]
    return front + rest
