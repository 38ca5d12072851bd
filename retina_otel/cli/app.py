"""The command group: commands loaded by name, errors as one line each, exit codes."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Mapping

import click

from retina_otel import __version__
from retina_otel.cli.exit_codes import ExitCode, exit_code
from retina_otel.errors import RetinaError

PROGRAM = "retina-otel"
COMPLETION_VARIABLE = "_RETINA_OTEL_COMPLETE"

COMMANDS: Mapping[str, tuple[str, str]] = {
    "agent": ("retina_otel.cli.agent", "Collect from the kernel and push it out."),
    "validate": ("retina_otel.cli.validate", "Check a configuration without running it."),
    "components": ("retina_otel.cli.components", "List what a configuration may name."),
    "observe": ("retina_otel.cli.observe", "Show flows and drops as agents see them."),
    "pods": ("retina_otel.cli.pods", "Tell what is known of an address or a pod, and how."),
    "cardinality": ("retina_otel.cli.cardinality", "Show what each attribute costs in series."),
    "demo": ("retina_otel.cli.demo.command", "Show it working in a small lab on this machine."),
    "identity-service": (
        "retina_otel.cli.identity_service",
        "Watch the Kubernetes API once, for all agents.",
    ),
    "dashboards": ("retina_otel.cli.dashboards", "Print a Grafana dashboard and alert rules."),
    "schema": ("retina_otel.cli.schema", "Print the JSON Schema of the configuration."),
    "completion": ("retina_otel.cli.completion", "Print the completion script of a shell."),
    "version": ("retina_otel.cli.version", "Print the version."),
}
"""Name -> module whose `command` it is, and the line in the list of commands."""


class LazyGroup(click.Group):
    """A group that imports a command only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name][0])
        command = module.command
        if not isinstance(command, click.Command):
            raise TypeError(f"{module.__name__}.command is not a command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            import difflib

            close = difflib.get_close_matches(name, COMMANDS, n=1)
            remedy = f"Did you mean '{close[0]}'?" if close else f"Commands: {', '.join(COMMANDS)}."
            raise click.UsageError(f"No such command '{name}'. {remedy}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, brief) for name, (_, brief) in COMMANDS.items()])


@click.command(
    name=PROGRAM,
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"Try `{PROGRAM} COMMAND --help` for the options and examples of a command.",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Print the traceback of an error that is a defect of ours.",
)
def command(verbose: bool) -> None:
    """Network observability for Kubernetes nodes and pods, from the kernel to OpenTelemetry.

    \b
    Examples:
      retina-otel agent
      retina-otel agent --config agent.yaml --set service.interval=1s
      retina-otel validate --config agent.yaml
      retina-otel observe --verdict dropped --follow
    """


def run(arguments: list[str] | None = None) -> None:
    """Runs the command line and exits; every failure is a line on standard error."""
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        result = command.main(
            arguments,
            prog_name=PROGRAM,
            complete_var=COMPLETION_VARIABLE,
            standalone_mode=False,
        )
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.UsageError as error:
        if error.message.startswith("Got unexpected extra arg") and _takes_files(error.ctx):
            error = click.UsageError(f"{error.message}. Files are given by --config.", error.ctx)
        error.show()
        return ExitCode.USAGE
    except click.ClickException as error:
        error.show()
        return ExitCode.FAILURE
    except (click.Abort, KeyboardInterrupt):
        return 130
    except RetinaError as error:
        report(error)
        return exit_code(error)
    except BrokenPipeError:
        # Who read our output has enough; Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except Exception as error:
        return _defect(error, verbose=arguments[:1] in (["-v"], ["--verbose"]))
    return int(result) if isinstance(result, int) else ExitCode.OK


def _takes_files(context: click.Context | None) -> bool:
    parameters = context.command.params if context else ()
    return any("--config" in parameter.opts for parameter in parameters)


def _defect(error: Exception, *, verbose: bool) -> int:
    """What nobody foresaw: a line for people, the traceback for those who ask for it."""
    if verbose:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        text, remedy = where + error.strerror, f"`{PROGRAM} --verbose COMMAND` shows what failed."
    else:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        remedy = f"This is a defect: report it with what `{PROGRAM} --verbose COMMAND` prints."
    with contextlib.suppress(OSError):
        report(RetinaError(text, remedy))
    # What could not be written must not be tried again, with a complaint of Python's, at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return ExitCode.FAILURE


def report(error: RetinaError) -> None:
    """Prints an error, or each of several, as `error: what. Remedy.`"""
    errors = getattr(error, "errors", (error,))
    for one in errors:
        click.echo(f"{click.style('error:', fg='red', bold=True)} {one}", err=True)


def warn(text: str) -> None:
    click.echo(f"{click.style('warning:', fg='yellow', bold=True)} {text}", err=True)
