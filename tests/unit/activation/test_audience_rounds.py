"""In which calls people go, in which order, and what becomes of those whose turn does not come."""

import socket
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from cairn.activation.channels.audience import (
    AudienceChannel,
    Call,
    Limits,
    Row,
    Verdict,
    open_client,
    rounds,
)
from cairn.activation.channels.base import ChannelTools, Letter, UnreachableError, down, failed, retry
from cairn.activation.channels.http import Answer
from cairn.activation.ledger import Fate, Outcome
from cairn.activation.model import Claim
from cairn.activation.normalize_google import GOOGLE
from cairn.activation.secrets import MissingSecretError, Secrets
from cairn.activation.settings import ActivationSettings
from cairn.api.definition.v1 import journey_pb2

ADD, REMOVE = journey_pb2.AUDIENCE_ACTION_ADD, journey_pb2.AUDIENCE_ACTION_REMOVE
SENT = Outcome(Fate.SENT)

changes = st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=60)


@given(changes, st.booleans(), st.integers(1, 5))
def test_calls_keep_each_persons_order_and_never_hold_a_person_twice(
    asked: list[tuple[str, bool]], mixed: bool, people: int
) -> None:
    rows = [Row(person, remove, (person,)) for person, remove in asked]
    calls = rounds(rows, Limits(people, 1, mixed))
    assert sorted(place for call in calls for place in call) == list(range(len(rows)))
    order = defaultdict(list)
    for call in calls:
        assert 1 <= len(call) <= people
        assert len({rows[place].person for place in call}) == len(call)
        assert mixed or len({rows[place].remove for place in call}) == 1
        for place in call:
            order[rows[place].person].append(place)
    assert all(places == sorted(places) for places in order.values())


@pytest.mark.parametrize(("mixed", "sizes"), [(False, [500, 500]), (True, [1000])])
def test_people_who_change_once_go_in_few_calls(mixed: bool, sizes: list[int]) -> None:
    rows = [Row(str(number), number % 2 == 0, ("x",)) for number in range(1000)]
    assert [len(call) for call in rounds(rows, Limits(10_000, 1, mixed))] == sizes


class Scripted:
    """A platform at which a script says what each call comes to; it writes down who was in the calls that were made."""

    normalizer = GOOGLE

    def __init__(self, url: str, script: Callable[[Sequence[Row]], Verdict], limits: Limits) -> None:
        self.limits = limits
        self.calls: list[list[str]] = []
        self.missing = ""
        self.url = url
        self._script = script

    async def open(self) -> None:
        """Open."""

    async def call(self, schema: Sequence[str], rows: Sequence[Row]) -> Call:
        if self.missing:
            raise MissingSecretError(self.missing)
        return Call("POST", self.url, {}, b"x" * len(rows))

    def read(self, schema: Sequence[str], rows: Sequence[Row], answer: Answer, now: int) -> Verdict:
        assert (answer.status, answer.body) == (200, b"x" * len(rows))
        self.calls.append([("-" if row.remove else "+") + row.person for row in rows])
        return self._script(rows)


TOOLS = ChannelTools(Secrets(None), ActivationSettings(postgres_dsn="postgresql://u:p@h:5432/d"))
Opener = Callable[..., tuple[AudienceChannel, Scripted]]


@pytest.fixture
async def channel_of() -> AsyncIterator[Opener]:
    """Makes a channel to a scripted platform behind a real server."""

    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    app = web.Application()
    app.router.add_post("/", echo)
    server = TestServer(app)
    await server.start_server()
    channels = []

    def opened(
        script: Callable[[Sequence[Row]], Verdict], people: int = 100, most_bytes: int = 1000
    ) -> tuple[AudienceChannel, Scripted]:
        platform = Scripted(str(server.make_url("/")), script, Limits(people, most_bytes))
        channel = AudienceChannel(platform, open_client("x", TOOLS), {"EMAIL": "email", "PHONE": "phone"})
        channels.append(channel)
        return channel, platform

    yield opened
    for channel in channels:
        await channel.close()
    await server.close()


def rows_of(text: str) -> list[Row]:
    return [Row(word[1:], word[0] == "-", (word[1:],)) for word in text.split()]


async def test_each_is_answered_in_its_place(channel_of: Opener) -> None:
    channel, platform = channel_of(
        lambda rows: Verdict(
            SENT, {place: failed("no") for place, row in enumerate(rows) if row.person == "b"}
        )
    )
    outcomes = await channel.send(rows_of("+a +b -c +d -a"))
    assert [outcome.fate.name for outcome in outcomes] == ["SENT", "FAILED", "SENT", "SENT", "SENT"]
    assert platform.calls == [["+a", "+b", "+d"], ["-c"], ["-a"]]


async def test_when_the_platform_takes_nothing_no_later_call_is_made(channel_of: Opener) -> None:
    channel, platform = channel_of(lambda rows: Verdict(retry("busy")))
    outcomes = await channel.send(rows_of("+a +b -a -c"))
    assert {outcome.fate for outcome in outcomes} == {Fate.RETRY}
    assert platform.calls == [["+a", "+b"]]
    assert "earlier change" in outcomes[2].detail


@pytest.mark.parametrize("asked", ["+a -b", "+a -a", "+a +b +c +d"])
async def test_whoever_only_waits_is_no_sign_that_a_platform_in_trouble_works(
    channel_of: Opener, asked: str
) -> None:
    channel, platform = channel_of(lambda rows: Verdict(down("busy")), most_bytes=2)
    outcomes = await channel.send(rows_of(asked))
    assert len(platform.calls) == 1
    assert all(outcome.fate is Fate.RETRY and outcome.down for outcome in outcomes)


async def test_whoever_waits_for_themselves_says_nothing_bad_of_the_platform(channel_of: Opener) -> None:
    channel, _ = channel_of(lambda rows: Verdict(retry("its secret is missing")))
    assert not any(outcome.down for outcome in await channel.send(rows_of("+a -a -b")))


async def test_a_trial_asks_whether_the_platform_is_there_and_changes_nothing(channel_of: Opener) -> None:
    channel, platform = channel_of(lambda rows: Verdict(SENT))
    assert (await channel.probe()).startswith("the ad platform can be reached (HTTP 405)")
    assert platform.calls == []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        platform.url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        with pytest.raises(UnreachableError, match="can't be reached"):
            await channel.probe()


async def test_whoever_must_be_tried_again_is_not_overtaken_by_themselves_and_holds_up_nobody_else(
    channel_of: Opener,
) -> None:
    channel, platform = channel_of(
        lambda rows: Verdict(
            SENT, {place: retry("busy") for place, row in enumerate(rows) if row.person == "a"}
        )
    )
    outcomes = await channel.send(rows_of("+a +b -a -b +a"))
    assert [outcome.fate.name for outcome in outcomes] == ["RETRY", "SENT", "RETRY", "SENT", "RETRY"]
    assert platform.calls == [["+a", "+b"], ["-b"]]


async def test_without_those_that_were_refused_the_call_is_made_again(channel_of: Opener) -> None:
    def script(rows: Sequence[Row]) -> Verdict:
        wrong = {place: failed("no") for place, row in enumerate(rows) if row.person in "ac"}
        return Verdict(retry("others"), wrong, again=True) if wrong else Verdict(SENT)

    channel, platform = channel_of(script)
    outcomes = await channel.send(rows_of("+a +b +c +d"))
    assert [outcome.fate.name for outcome in outcomes] == ["FAILED", "SENT", "FAILED", "SENT"]
    assert platform.calls == [["+a", "+b", "+c", "+d"], ["+b", "+d"]]


async def test_a_platform_that_refuses_one_after_the_other_does_not_hold_a_turn_for_ever(
    channel_of: Opener,
) -> None:
    channel, platform = channel_of(lambda rows: Verdict(retry("others"), {0: failed("no")}, again=True))
    outcomes = await channel.send([Row(str(number), False, ("x",)) for number in range(100)])
    assert len(platform.calls) == 41
    assert [outcome.fate for outcome in outcomes] == [Fate.FAILED] * 41 + [Fate.RETRY] * 59


def refusing(persons: str) -> Callable[[Sequence[Row]], Verdict]:
    """Refuses any call that has one of these, and does not say because of whom."""

    def script(rows: Sequence[Row]) -> Verdict:
        return (
            Verdict(SENT)
            if persons not in {row.person for row in rows}
            else Verdict(failed("no"), unnamed=True)
        )

    return script


@pytest.mark.parametrize("wrong", [0, 1, 499, 998, 999])
async def test_who_is_not_named_is_found_by_smaller_calls(channel_of: Opener, wrong: int) -> None:
    channel, platform = channel_of(refusing(str(wrong)), people=10_000, most_bytes=10_000)
    outcomes = await channel.send([Row(str(number), False, ("x",)) for number in range(1000)])
    assert [place for place, outcome in enumerate(outcomes) if outcome.fate is not Fate.SENT] == [wrong]
    assert outcomes[wrong].fate is Fate.FAILED
    assert len(platform.calls) <= 21


async def test_when_every_call_is_refused_few_are_made_and_nobody_is_taken(channel_of: Opener) -> None:
    channel, platform = channel_of(
        lambda rows: Verdict(failed("no"), unnamed=True), people=10_000, most_bytes=10_000
    )
    outcomes = await channel.send([Row(str(number), False, ("x",)) for number in range(1000)])
    assert len(platform.calls) <= 60
    assert {outcome.fate for outcome in outcomes} == {Fate.FAILED, Fate.RETRY}
    assert "being looked for" in outcomes[-1].detail


async def test_what_is_too_many_bytes_is_halved(channel_of: Opener) -> None:
    channel, platform = channel_of(lambda rows: Verdict(SENT), most_bytes=3)
    outcomes = await channel.send(rows_of("+a +b +c +d +e +f +g"))
    assert {outcome.fate for outcome in outcomes} == {Fate.SENT}
    assert platform.calls == [["+a", "+b", "+c"], ["+d", "+e"], ["+f", "+g"]]


async def test_a_missing_secret_is_told_and_tried_again(channel_of: Opener) -> None:
    channel, platform = channel_of(lambda rows: Verdict(SENT))
    platform.missing = "the secret `x` is missing"
    (outcome,) = await channel.send(rows_of("+a"))
    assert (outcome.fate, outcome.detail) == (Fate.RETRY, "the secret `x` is missing")


def letter(context: bytes, action: int = ADD) -> Letter:
    claim = Claim("id", 0, "ada", "", action, context, 0, 1, "")
    return Letter(claim, None)


async def test_attributes_become_a_row(channel_of: Opener) -> None:
    channel, _ = channel_of(lambda rows: Verdict(SENT))
    row = channel.prepare(letter(b'{"profile": {"email": "Ada@Example.com"}, "entry": {}}', REMOVE))
    email = GOOGLE.normalize("EMAIL", "ada@example.com")
    assert row == Row("ada", True, (email, ""))
    member = channel.member_of(row)
    assert member is not None
    assert (member.present, dict(member.identifiers)) == (False, {"EMAIL": email})


async def test_hashes_stand_in_for_attributes(channel_of: Opener) -> None:
    channel, _ = channel_of(lambda rows: Verdict(SENT))
    context = (
        f'{{"hashed": {{"EMAIL": "{"a" * 64}", "UNKNOWN": "x", "PHONE": 7}}, "profile": {{"phone": 1}}}}'
    )
    assert channel.prepare(letter(context.encode())) == Row("ada", False, ("a" * 64, ""))


@pytest.mark.parametrize(("action", "email"), [(REMOVE, "b" * 64), (ADD, "")])
async def test_whoever_is_removed_is_so_by_what_the_audience_got(
    channel_of: Opener, action: int, email: str
) -> None:
    channel, _ = channel_of(lambda rows: Verdict(SENT))
    asked = letter(b'{"profile": {"email": "new@example.com"}}', action)
    row = channel.prepare(Letter(asked.claim, None, {"EMAIL": "b" * 64}))
    expected = email or GOOGLE.normalize("EMAIL", "new@example.com")
    assert row == Row("ada", action == REMOVE, (expected, ""))


@pytest.mark.parametrize(
    ("context", "action", "detail"),
    [
        (b"{}", 0, "an audience needs an action, ADD or REMOVE"),
        (b"{", ADD, "the activation's context is not JSON"),
        (b"\xff", ADD, "the activation's context is not JSON"),
        (b'{"profile": ' + b"[" * 100_000, ADD, "the activation's context is not JSON"),
        (b"[]", ADD, "the activation's context is not a JSON object"),
        (b"", ADD, "no identifier that the audience could match (attributes `email`, `phone`)"),
        (b'{"profile": 7}', ADD, "no identifier that the audience could match"),
        (b'{"profile": {"email": " ", "phone": true}}', ADD, "no identifier that the audience could match"),
        (b'{"hashed": {"EMAIL": "x"}, "profile": {"email": "a@b.c"}}', REMOVE, "no identifier that"),
    ],
)
async def test_what_can_not_be_sent(channel_of: Opener, context: bytes, action: int, detail: str) -> None:
    channel, _ = channel_of(lambda rows: Verdict(SENT))
    outcome = channel.prepare(letter(context, action))
    assert isinstance(outcome, Outcome)
    assert outcome.fate is Fate.FAILED
    assert detail in outcome.detail
