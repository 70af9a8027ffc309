"""Owns the `cairn` command itself: which commands there are, and how any failure leaves it.

Refuses tracebacks: a failure is one line `cairn: ...` on stderr, findings below it, and an exit code.
"""

import importlib
import io
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click

from cairn.cli.failures import FAILED, INTERRUPTED, USAGE, explain

# gRPC's fork handlers run in each child that `up` starts and can bring it down. Before anything imports grpc.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

_COMMANDS: Mapping[str, tuple[str, str]] = {
    "up": ("cairn.cli.up:up", "Run the four services here, with an embedded Postgres."),
    "demo": ("cairn.cli.demo:demo", "Show the main job: journeys, events, mails, an audience, a verdict."),
    "migrate": ("cairn.cli.migrate:migrate", "Make a Postgres database ready for Cairn."),
    "apply": (
        "cairn.cli.apply:apply",
        "Save and publish the journeys, segments, connections and templates of files.",
    ),
    "journeys": (
        "cairn.cli.journeys:journeys",
        "List, show, check, compare, pause, resume and end journeys.",
    ),
    "simulate": ("cairn.cli.simulate:simulate", "Run journeys on a file of events, without a server."),
    "diagram": ("cairn.cli.diagram:diagram", "Draw journeys."),
    "segments": ("cairn.cli.segments:segments", "List, show, save and delete segments."),
    "events": ("cairn.cli.events:events", "Send events; replay those of the past."),
    "profiles": ("cairn.cli.profiles:profiles", "Describe, show and erase profiles."),
    "enrollments": ("cairn.cli.views:enrollments", "Who is where in which journey."),
    "explain": ("cairn.cli.explain:explain", "Why somebody is where he is in a journey, or is not in it."),
    "timeline": ("cairn.cli.views:timeline", "What happened to one profile."),
    "deliveries": (
        "cairn.cli.deliveries:deliveries",
        "What was handed to destinations, its fate; retry, resolve.",
    ),
    "connections": (
        "cairn.cli.connections:connections",
        "List, show, try and delete ways out; who is in an audience.",
    ),
    "templates": ("cairn.cli.templates:templates", "List, show, preview and delete the words of messages."),
    "send-test": ("cairn.cli.send_test:send_test", "Send one message at once, to see how it arrives."),
    "suppressions": ("cairn.cli.suppressions:suppressions", "Addresses that get no mail."),
    "consents": ("cairn.cli.consents:consents", "Who agreed to be written to."),
    "policy": ("cairn.cli.policy:policy", "How often, and when, people are written to at all."),
    "timers": ("cairn.cli.views:timers", "What is due when."),
    "run": ("cairn.cli.run:run", "Run a batch journey over its audience, or count what a run would do."),
    "runs": ("cairn.cli.runs:runs", "Runs of batch journeys: list, show, pause, resume, cancel."),
    "schedules": ("cairn.cli.schedules:schedules", "What happens again and again; run one now."),
}
"""Name to place and one line of help: a command's module is imported only when it is used."""


_ALONE = frozenset({"simulate", "diagram"})
"""Commands that need nothing of ours that logs; they shall start at once."""


class CairnGroup(click.Group):
    """The commands by name, imported late; turns every failure into its line and exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])

    def main(  # type: ignore[override]  # click's signature is overloaded on standalone_mode, which is ours to decide
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        extra.pop("standalone_mode", None)
        _prepare_streams()
        try:
            code = super().main(args, prog_name or "cairn", standalone_mode=False, **extra)
        except (click.Abort, KeyboardInterrupt):
            click.echo("cairn: interrupted", err=True)
            sys.exit(INTERRUPTED)
        except click.UsageError as error:
            error.show()
            sys.exit(USAGE)
        except click.ClickException as error:
            click.echo(f"cairn: {error.format_message()}", err=True)
            sys.exit(FAILED)
        except BrokenPipeError:
            # Whoever read our output has seen enough; Python would complain once more when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(FAILED)
        except Exception as error:
            explanation = explain(error)
            if explanation is None:
                raise
            click.echo(f"cairn: {explanation.message}", err=True)
            for line in explanation.details:
                click.echo(f"  {line}", err=True)
            sys.exit(FAILED)
        sys.exit(code if isinstance(code, int) else 0)


def _prepare_streams() -> None:
    """Let no letter that the terminal lacks, and no closed output, end a command that has done its work."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - open for as long as the process is
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@click.group(
    cls=CairnGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
A first journey:
  cairn up                                    in one terminal, then in another:
  cairn apply -f deploy/examples
  cairn events send --profile ada --name newsletter_signup
  cairn timeline ada
""",
)
@click.version_option(package_name="cairn-cli", prog_name="cairn", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Journeys: find people along the buying cycle and act at the right moment."""
    if ctx.invoked_subcommand in _ALONE:
        return
    import structlog

    # Libraries of ours log for operators of services; a person at a terminal is told by the command itself.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def main() -> None:
    """The console script; leaves by SystemExit."""
    cli()


if __name__ == "__main__":
    main()
