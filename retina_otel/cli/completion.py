"""`retina-otel completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(name="completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    Examples:
      source <(retina-otel completion bash)
      retina-otel completion zsh > "${fpath[1]}/_retina-otel"
      retina-otel completion fish > ~/.config/fish/completions/retina-otel.fish
    """
    from retina_otel.cli import app

    completion_class = get_completion_class(shell)
    if completion_class is None:
        raise click.UsageError(f"no completion for {shell}", context)
    completion = completion_class(app.command, {}, app.PROGRAM, app.COMPLETION_VARIABLE)
    click.echo(completion.source())
