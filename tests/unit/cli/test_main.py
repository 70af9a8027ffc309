"""What every command has: help with examples, exit codes, one line on stderr."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import grpc
import pytest
from click.testing import Result

from cairn.cli.failures import Explanation, explain
from cairn.cli.main import _COMMANDS, cli
from cairn.runtime.errors import FieldViolation, invalid

Run = Callable[..., Result]


def leaf_commands() -> Iterator[tuple[str, ...]]:
    context = click.Context(cli)
    for name in _COMMANDS:
        command = cli.get_command(context, name)
        if isinstance(command, click.Group):
            yield from ((name, sub) for sub in command.list_commands(context))
        else:
            yield (name,)


@pytest.mark.parametrize("path", list(leaf_commands()), ids=" ".join)
def test_every_command_has_help_with_examples_and_json(run: Run, path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.exit_code == 0
    assert "Examples:" in result.stdout
    assert f"cairn {' '.join(path)}" in result.stdout
    assert "--json" in result.stdout


def test_the_list_of_commands_imports_none_of_them() -> None:
    probe = (
        "import sys, cairn.cli.main as m\n"
        "try: m.cli(['--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "heavy = {'grpc', 'rich', 'asyncpg', 'pydantic', 'structlog'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "timeline" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nonsense",), "No such command 'nonsense'"),
        (("timeline",), "Missing argument 'PROFILE'"),
        (("deliveries", "--state", "LOST"), "'LOST' is not one of"),
        (("timeline", "ada", "--address", "nowhere"), "'nowhere' is not like 127.0.0.1:7401"),
        (("events", "send"), "Give either --file, or --profile"),
        (("events", "send", "--profile", "ada"), "needs --name"),
        (("events", "send", "--profile", "ada", "--name", "x", "--at", "soon"), "'soon' is no RFC 3339 time"),
        (
            ("events", "send", "--profile", "ada", "--name", "x", "--property", "total"),
            "is not like key=value",
        ),
        (("events", "send", "-f", "-", "--name", "x"), "are for a single event"),
        (("events", "send", "-f", "/no/such/file"), "No such file"),
        (("profiles", "upsert"), "Give either --file, or --profile"),
        (("migrate",), "Missing option '--dsn'"),
        (("up", "--speed", "0"), "0 is not in the range"),
    ],
)
def test_wrong_usage_is_told_on_stderr_and_exits_2(run: Run, arguments: tuple[str, ...], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("timeline", "ada", "--address", "127.0.0.1:1"), "no answer from evaluator at 127.0.0.1:1"),
        (
            ("events", "send", "--profile", "a", "--name", "b", "--address", "127.0.0.1:1"),
            "no answer from evaluator",
        ),
        (("journeys", "list", "--address", "127.0.0.1:1"), "no answer from definition"),
        (("journeys", "--address", "127.0.0.1:1"), "no answer from definition"),
        (("timers", "--address", "127.0.0.1:1"), "no answer from scheduler"),
        (("deliveries", "--address", "127.0.0.1:1"), "no answer from activation"),
        (
            ("migrate", "--dsn", "postgresql://a:secret@127.0.0.1:1/x"),
            "Postgres at 127.0.0.1:1/x does not answer",
        ),
        (("apply", "-f", os.devnull), "the files hold no document"),
        (("journeys", "validate", "--offline", "-f", os.devnull), "the files hold no document"),
        (("apply", "-f", "/no/such.yaml"), "/no/such.yaml: No such file or directory"),
        (("demo", "--examples", "/"), "holds no welcome.yaml"),
    ],
)
def test_a_failure_is_one_line_and_exit_code_1(run: Run, arguments: tuple[str, ...], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stderr.startswith("cairn: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
    assert "secret" not in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("raised", [KeyboardInterrupt, click.Abort])
def test_an_interrupt_exits_130(
    run: Run, monkeypatch: pytest.MonkeyPatch, raised: type[BaseException]
) -> None:
    def interrupted(*_args: object, **_kwargs: object) -> None:
        raise raised

    monkeypatch.setattr("cairn.cli.migrate.prepare_database", interrupted)
    result = run("migrate", "--dsn", "postgresql://x")
    assert result.exit_code == 130
    assert result.stderr.strip() == "cairn: interrupted"


def test_a_defect_of_ours_is_no_traceback_unless_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_args: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("cairn.cli.migrate.prepare_database", broken)
    result = run("migrate", "--dsn", "postgresql://x")
    assert result.exit_code == 1
    assert result.stderr == (
        "cairn: something went wrong inside (ZeroDivisionError: oops); CAIRN_DEBUG=1 shows where.\n"
    )
    monkeypatch.setenv("CAIRN_DEBUG", "1")
    assert isinstance(run("migrate", "--dsn", "postgresql://x").exception, ZeroDivisionError)


def test_a_reader_that_has_seen_enough_is_no_failure_to_complain_about() -> None:
    done = subprocess.run(
        f"{sys.executable} -m cairn.cli.main journeys validate --offline --json -f - | true",
        shell=True,
        input=b"\n---\n".join(
            b"name: j%d\ntype: REAL_TIME\nstages: [{name: a, entry: 'event.name == \"x\"'}]" % n
            for n in range(2000)
        ),
        capture_output=True,
        env=os.environ.copy(),
        check=False,
    )
    assert done.stderr == b""


VALID = "name: %s\ntype: REAL_TIME\nstages: [{name: a, entry: 'event.name == \"x\"'}]"


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_a_closed_output_is_no_failure(closed: str) -> None:
    done = subprocess.run(
        f"{sys.executable} -m cairn.cli.main journeys validate --offline -f - {closed}",
        shell=True,
        input=VALID % "a",
        text=True,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_a_letter_that_the_terminal_lacks_ends_nothing(tmp_path: Path) -> None:
    file = tmp_path / "\N{SNOWMAN}.yaml"
    file.write_text(VALID % "a")
    done = subprocess.run(
        [sys.executable, "-m", "cairn.cli.main", "journeys", "validate", "--offline", "--json", "-f", file],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u2603.yaml" in done.stdout


def test_what_is_the_whole_of_a_finding_is_said_once() -> None:
    finding = FieldViolation("name", "has to be journeys/{id}")
    assert explain(invalid("name has to be journeys/{id}.", [finding])) == Explanation(
        "name has to be journeys/{id}."
    )
    assert explain(invalid("The name is wrong.", [finding])) == Explanation(
        "The name is wrong.", ("name: has to be journeys/{id}",)
    )


def test_the_wrong_service_at_an_address_is_told(run: Run) -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        result = run("timeline", "ada", "--address", f"127.0.0.1:{port}")
    finally:
        server.stop(None).wait()
    assert result.exit_code == 1
    assert "does not know this call: is the address that of another service?" in result.stderr
