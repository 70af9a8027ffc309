"""How the SMTP channel uses its connections, and what it makes of servers that misbehave: a server that answers by a script."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from cairn.activation.channels.base import ChannelTools, Letter, UnreachableError
from cairn.activation.channels.mail_maker import Mail
from cairn.activation.channels.smtp import SmtpChannel
from cairn.activation.ledger import Fate
from cairn.activation.model import Claim
from cairn.activation.secrets import Secrets
from cairn.activation.settings import ActivationSettings
from cairn.activation.templates import CompiledTemplate
from cairn.api.activation.v1 import activation_pb2 as pb

GOOD = {"BANNER": b"220 hi", "EHLO": b"250 here", "DATA": b"354 go on", "QUIT": b"221 bye"}
TEMPLATE = CompiledTemplate("s", ".\n..\n{{ profile.words }}", "")


@dataclass
class Scripted:
    """Answers by `says(connection, command, count)`: bytes, None for nothing at all, b"" for hanging up; `count` of that command, from 1.

    The command of a message's end is "."; what `says` leaves out is answered well.
    """

    says: Callable[[int, str, int], bytes | str | None]
    commands: list[tuple[int, str]] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    port: int = 0
    _server: asyncio.Server | None = None
    _connections: list[asyncio.StreamWriter] = field(default_factory=list)

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=1 << 20)
        self.port = self._server.sockets[0].getsockname()[1]

    def leave(self) -> None:
        assert self._server
        self._server.close()
        for writer in self._connections:
            writer.close()

    @property
    def connections(self) -> int:
        return len(self._connections)

    def of(self, command: str) -> int:
        return sum(said == command for _, said in self.commands)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.append(writer)
        number = len(self._connections)
        counts: dict[str, int] = {}

        def answer(command: str) -> bool:
            counts[command] = counts.get(command, 0) + 1
            said = self.says(number, command, counts[command])
            if said == "":
                writer.close()
                return False
            if said is not None:
                reply = GOOD.get(command, b"250 fine") if said == "good" else said
                writer.write((reply if isinstance(reply, bytes) else reply.encode()) + b"\r\n")
            return True

        if not answer("BANNER"):
            return
        while line := await reader.readline():
            command = line.decode().split()[0].upper()
            self.commands.append((number, command))
            if not answer(command):
                return
            if command == "DATA" and self.says(number, "DATA", counts["DATA"]) == "good":
                self.messages.append(await reader.readuntil(b"\r\n.\r\n"))
                if not answer("."):
                    return
            if command == "QUIT":
                writer.close()
                return


Start = Callable[..., Awaitable[tuple[Scripted, SmtpChannel]]]


@pytest.fixture
async def start(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Start]:
    monkeypatch.setenv("CAIRN_ACTIVATION_POSTGRES_DSN", "postgresql://localhost/x")
    begun: list[tuple[Scripted, SmtpChannel]] = []

    async def begin(
        says: Callable[[int, str, int], bytes | str | None] = lambda *_: "good",
        *,
        pool_size: int = 2,
        patience_s: float = 20,
        username: str = "",
        **mail: str,
    ) -> tuple[Scripted, SmtpChannel]:
        monkeypatch.setenv("CAIRN_ACTIVATION_SMTP_TIMEOUT_SECONDS", str(patience_s))
        server = Scripted(says)
        await server.start()
        smtp = pb.SmtpConnection(
            host="127.0.0.1", port=server.port, from_address="Shop <shop@example.com>", pool_size=pool_size
        )
        if username:
            smtp.username, smtp.password_secret = username, "mail-password"
        whole = pb.Connection(name="connections/email", smtp=smtp, mail=pb.MailOptions(**mail))
        channel = SmtpChannel(whole, ChannelTools(Secrets(None), ActivationSettings()))
        begun.append((server, channel))
        return server, channel

    yield begin
    for server, channel in begun:
        await channel.close()
        server.leave()


def mails(channel: SmtpChannel, count: int, words: str = "words") -> list[Mail]:
    made = []
    for number in range(count):
        context = {"profile": {"email": f"p{number}@example.com", "words": words}}
        claim = Claim(
            activation_id=f"a{number}",
            request_us=0,
            profile_id=f"p{number}",
            template="t",
            action=0,
            context=json.dumps(context).encode(),
            accept_us=0,
            attempts=1,
            enrollment="",
        )
        mail = channel.prepare(Letter(claim, TEMPLATE))
        assert isinstance(mail, Mail)
        made.append(mail)
    return made


async def test_a_batch_goes_over_few_connections_and_no_command_is_for_nothing(start: Start) -> None:
    server, channel = await start(pool_size=3)
    for _ in range(3):
        await channel.open()
        outcomes = await channel.send(mails(channel, 20))
        assert [outcome.fate for outcome in outcomes] == [Fate.SENT] * 20
    assert server.connections <= 3
    assert {command for _, command in server.commands} == {"EHLO", "MAIL", "RCPT", "DATA"}
    assert server.of("EHLO") == server.connections
    assert [server.of(command) for command in ("MAIL", "RCPT", "DATA")] == [60, 60, 60]


async def test_a_message_arrives_as_it_was_made(start: Start) -> None:
    server, channel = await start()
    [mail] = mails(channel, 1, words="a\n.b\n.")
    [outcome] = await channel.send([mail])
    assert (outcome.fate, outcome.external_id, outcome.detail) == (Fate.SENT, mail.message_id, "250 fine")
    [received] = server.messages
    assert re.sub(rb"(?m)^\.", b"", received.removesuffix(b".\r\n")) == mail.data + b"\r\n"


async def test_a_kept_connection_that_says_goodbye_costs_no_attempt(start: Start) -> None:
    server, channel = await start(
        lambda _, command, count: (
            "421 4.7.0 enough for one connection" if (command, count) == ("MAIL", 3) else "good"
        ),
        pool_size=1,
    )
    outcomes = await channel.send(mails(channel, 7))
    assert [outcome.fate for outcome in outcomes] == [Fate.SENT] * 7
    assert server.connections == 4


async def test_a_server_that_takes_fewer_connections_than_the_pool_has(start: Start) -> None:
    server, channel = await start(
        lambda connection, command, _: (
            "421 too many connections" if connection > 1 and command == "BANNER" else "good"
        ),
        pool_size=4,
    )
    await channel.open()
    outcomes = await channel.send(mails(channel, 12))
    assert [outcome.fate for outcome in outcomes] == [Fate.SENT] * 12
    assert {number for number, command in server.commands if command == "DATA"} == {1}


LONG = b"250 " + b"x" * 10_000_000
HTML = "<html><body>Bad gateway</body></html>"


@pytest.mark.parametrize(
    ("command", "said", "fate", "down", "detail"),
    [
        ("MAIL", "421 closing", Fate.RETRY, True, "the mail server is not available: 421 closing"),
        ("MAIL", "451 4.3.0 later", Fate.RETRY, False, "the mail server deferred it: 451 4.3.0 later"),
        ("MAIL", "553 no such sender", Fate.FAILED, False, "the mail server refused it: 553 no such sender"),
        ("MAIL", "", Fate.RETRY, True, "the mail server closed the connection"),
        ("MAIL", HTML, Fate.RETRY, True, "the mail server closed the connection"),
        ("MAIL", LONG, Fate.RETRY, True, "the mail server closed the connection"),
        ("MAIL", None, Fate.RETRY, True, "the mail server did not answer in time"),
        (
            "RCPT",
            "550 5.1.1 <p0@example.com> unknown",
            Fate.FAILED,
            False,
            "the mail server refused it: 550 5.1.1 <address> unknown",
        ),
        ("RCPT", "452 full", Fate.RETRY, False, "the mail server deferred it: 452 full"),
        ("RCPT", "251 forwarded", Fate.SENT, False, "250 fine"),
        ("RCPT", "", Fate.RETRY, True, "the mail server closed the connection"),
        ("DATA", "554 no valid recipients", Fate.FAILED, False, "the mail server refused it: 554"),
        ("DATA", "451 later", Fate.RETRY, False, "the mail server deferred it: 451"),
        (".", "554 5.7.1 spam", Fate.FAILED, False, "the mail server refused it: 554 5.7.1 spam"),
        (".", "452 4.3.1 disk full", Fate.RETRY, False, "the mail server deferred it: 452 4.3.1 disk full"),
        (".", "421 closing", Fate.RETRY, True, "the mail server is not available: 421 closing"),
        (".", "", Fate.UNKNOWN, False, "the connection was cut before"),
        (".", None, Fate.UNKNOWN, False, "the connection was cut before"),
        (".", HTML, Fate.UNKNOWN, False, "the connection was cut before"),
        (".", LONG, Fate.UNKNOWN, False, "the connection was cut before"),
        (".", "354 go on", Fate.UNKNOWN, False, "the connection was cut before"),
    ],
)
async def test_answers(start: Start, command: str, said: object, fate: Fate, down: bool, detail: str) -> None:
    odd = True
    server, channel = await start(
        lambda _, now, __: said if odd and now == command else "good",  # type: ignore[return-value]
        patience_s=0.3 if said is None else 20,
    )
    [outcome] = await channel.send(mails(channel, 1))
    assert (outcome.fate, outcome.down) == (fate, down)
    assert outcome.detail.startswith(detail)
    assert len(outcome.detail) < 300
    odd = False
    [outcome] = await channel.send(mails(channel, 1))
    assert outcome.fate is Fate.SENT
    assert server.messages


async def test_one_refusal_harms_no_other_message(start: Start) -> None:
    server, channel = await start(
        lambda _, command, count: "550 no" if command == "RCPT" and count == 2 else "good", pool_size=1
    )
    outcomes = await channel.send(mails(channel, 4))
    assert [outcome.fate for outcome in outcomes] == [Fate.SENT, Fate.FAILED, Fate.SENT, Fate.SENT]
    assert (server.connections, server.of("RSET")) == (1, 1)


async def test_a_server_that_goes_away_leaves_no_message_in_doubt_that_it_did_not_get(start: Start) -> None:
    def says(_: int, command: str, count: int) -> str:
        if command == "MAIL" and count == 4:
            server.leave()
        return "good"

    server, channel = await start(says, pool_size=1)
    outcomes = await channel.send(mails(channel, 6))
    assert [outcome.fate for outcome in outcomes] == [Fate.SENT] * 3 + [Fate.RETRY] * 3
    assert all(outcome.down for outcome in outcomes[3:])
    assert outcomes[5].detail == "the mail server does not answer (SMTPConnectError)"


@pytest.mark.parametrize(("command", "first"), [("MAIL", Fate.RETRY), (".", Fate.UNKNOWN)])
async def test_a_server_that_falls_silent_leaves_few_in_doubt(
    start: Start, command: str, first: Fate
) -> None:
    server, channel = await start(lambda _, now, __: None if now == command else "good", patience_s=0.3)
    outcomes = await channel.send(mails(channel, 20))
    assert server.of("MAIL") == server.connections == 2
    assert sorted(outcome.fate.value for outcome in outcomes) == sorted([first.value] * 2 + ["retry"] * 18)
    assert all(outcome.down for outcome in outcomes if outcome.fate is Fate.RETRY)


@pytest.mark.parametrize(
    ("command", "said", "detail"),
    [
        ("BANNER", "554 go away", "the mail server does not let us in: 554 go away"),
        ("BANNER", HTML, "the mail server does not let us in"),
        ("BANNER", "", "the mail server does not answer"),
        ("BANNER", None, "the mail server does not answer"),
        ("EHLO", "550 who are you", "the mail server does not let us in: 550 who are you"),
    ],
)
async def test_a_server_that_lets_nobody_in(
    start: Start, command: str, said: str | None, detail: str
) -> None:
    _, channel = await start(
        lambda _, now, __: said if now == command else "good", patience_s=0.3 if said is None else 20
    )
    for attempt in (channel.open, channel.probe):
        with pytest.raises(UnreachableError) as caught:
            await attempt()
        assert str(caught.value).startswith(detail)


async def test_a_refused_login_tells_no_secret(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAIRN_SECRET_MAIL_PASSWORD", "s3cret")
    told = base64.b64encode(b"\0shop\0s3cret").decode()
    answers = {"EHLO": "250-here\r\n250 AUTH PLAIN", "AUTH": f"535 5.7.8 no, not {told} (s3cret)"}
    _, channel = await start(lambda _, command, __: answers.get(command, "good"), username="shop")
    with pytest.raises(UnreachableError) as caught:
        await channel.probe()
    assert str(caught.value) == "the mail server refuses the login: 535 5.7.8"
    answers["AUTH"] = "235 welcome"
    assert await channel.probe() == "the mail server lets us in, without TLS"


async def test_a_probe_looks_at_the_server_and_at_the_key(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, channel = await start()
    await channel.open()
    assert await channel.probe() == "the mail server lets us in, without TLS"
    assert server.connections == 2
    signing = {"dkim_domain": "example.com", "dkim_selector": "s", "dkim_key_secret": "dkim"}
    _, channel = await start(**signing)
    with pytest.raises(UnreachableError, match="the secret `dkim` is missing"):
        await channel.probe()
    monkeypatch.setenv("CAIRN_SECRET_DKIM", "nonsense")
    with pytest.raises(UnreachableError, match="the DKIM key can't be used"):
        await channel.probe()
