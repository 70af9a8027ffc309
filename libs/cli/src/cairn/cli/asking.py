"""Owns asking the person at the terminal before something that can't be taken back."""

import sys

import click

yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def is_asked() -> bool:
    """Whether a person is there to be asked."""
    return sys.stdin is not None and sys.stdin.isatty()


def confirm(question: str, *, yes: bool) -> None:
    """Ask the person at the terminal; a program was told by its arguments what it does. Leaves the command on a no."""
    if not yes and is_asked():
        click.confirm(question, abort=True, err=True)
