"""`harness completion`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from harness.errors import UsageError

_PLACES = {
    "bash": ("XDG_DATA_HOME", ".local/share", "bash-completion/completions/harness"),
    "zsh": ("XDG_DATA_HOME", ".local/share", "zsh/site-functions/_harness"),
    "fish": ("XDG_CONFIG_HOME", ".config", "fish/completions/harness.fish"),
}
"""Shell to the variable and default of a base folder (XDG Base Directory), and the file that the shell reads there."""
_NOTES = {
    "bash": "Bash reads it where bash-completion is installed",
    "zsh": "Zsh reads it where `fpath` in ~/.zshrc names its folder, before `compinit`",
    "fish": "Fish reads it",
}


@click.command(name="completion")
@click.argument("shell", type=click.Choice(list(_PLACES)), required=False)
@click.option("--show", is_flag=True, help="Print the script instead of installing it.")
def command(shell: str | None, show: bool) -> None:
    """Install completion of commands and options for SHELL (default: the one in the variable SHELL)."""
    from click.shell_completion import get_completion_class

    from harness.files import writable_file

    shell = shell or Path(os.environ.get("SHELL", "")).name
    if shell not in _PLACES:
        raise UsageError(
            f"The variable SHELL names {shell or 'no shell'}: say which completion you want, "
            f"`harness completion {'`, `harness completion '.join(_PLACES)}`."
        )
    of_shell = get_completion_class(shell)
    assert of_shell is not None
    script = of_shell(click.get_current_context().find_root().command, {}, "harness", "_HARNESS_COMPLETE").source()
    if show:
        click.echo(script)
        return
    variable, default, name = _PLACES[shell]
    path = Path(os.environ.get(variable) or Path.home() / default) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    writable_file(path, "completion").write_text(script, encoding="utf-8")
    click.echo(f"Wrote {path}. {_NOTES[shell]}, in each shell that starts from now on.")
