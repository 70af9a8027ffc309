"""Owns the public HTTP server: one-click unsubscribing, the preference page, and the providers' webhooks.

The world can reach it: it knows nobody, shows no address in full, reads no more than it must, and does nothing on a GET.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from email.message import Message
from email.parser import BytesParser
from email.policy import HTTP
from types import MappingProxyType
from urllib.parse import parse_qsl

import asyncpg
import structlog
from aiohttp import web

from cairn.activation import feedback_sendgrid, feedback_ses, metrics, pages
from cairn.activation.catalog import Catalog
from cairn.activation.feedback import MAX_BODY_BYTES, RefusedError
from cairn.activation.links import PATH, Links, Subscriber
from cairn.activation.people import People
from cairn.activation.settings import ActivationSettings
from cairn.activation.sns_certificates import SnsCertificates
from cairn.activation.store_feedback import Feedback
from cairn.activation.wire import parse_id
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.postgres.pool import Pool, is_unavailable
from cairn.runtime.clock import now_us
from cairn.runtime.errors import StartupError
from cairn.runtime.server import check_port
from cairn.runtime.settings import environment_name

log = structlog.get_logger()

MAX_FORM_BYTES = 4 * 1024
"""Largest body of an unsubscription."""

MOST_AT_ONCE = 64
"""Requests under way; more are asked to come again."""

ONE_CLICK = ("List-Unsubscribe", "One-Click")
"""The form's field and value by RFC 8058."""

_READ_SECONDS = 10.0
_WORK_SECONDS = 20.0
_DRAIN_SECONDS = 5.0
_LOG_EVERY_SECONDS = 1.0
_SCOPES: Mapping[str, bool] = MappingProxyType({"list": False, "all": True})

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Taker = Callable[[pb.Connection, str, web.Request], Awaitable[None]]


class PublicServer:
    """The component; it listens where the settings name a port."""

    name = "public"

    def __init__(
        self, settings: ActivationSettings, pool: Pool, catalog: Catalog, people: People, links: Links
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._catalog = catalog
        self._people = people
        self._links = links
        hosts = settings.sns_certificate_hosts.split(",")
        self._certificates = SnsCertificates({host.strip() for host in hosts} - {""})
        self._runner: web.AppRunner | None = None
        self._site: web.TCPSite | None = None
        self._under_way = 0
        self._said: dict[tuple[str, str], float] = {}
        self.port = 0

    async def start(self) -> None:
        """Takes the port and answers; StartupError when it is in use."""
        settings = self._settings
        if settings.public_port is None:
            return
        check_port(settings, settings.public_host, settings.public_port, "public_port")
        application = web.Application(middlewares=[self._around])
        application.router.add_get(f"{PATH}{{token}}", self._show)
        application.router.add_post(f"{PATH}{{token}}", self._unsubscribe)
        application.router.add_post("/feedback/ses/{connection}", self._webhook("ses", self._take_ses))
        application.router.add_post(
            "/feedback/sendgrid/{connection}", self._webhook("sendgrid", self._take_sendgrid)
        )
        application.on_response_prepare.append(_add_headers)
        self._certificates.open()
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=_DRAIN_SECONDS)
        await self._runner.setup()
        self._site = web.TCPSite(self._runner, settings.public_host, settings.public_port)
        try:
            await self._site.start()
        except OSError:
            name = environment_name(settings, "public_port")
            raise StartupError(f"port {settings.public_port} can't be taken ({name}).") from None
        self.port = self._runner.addresses[0][1]
        log.info("public_serving", port=self.port)

    async def drain(self) -> None:
        """Takes no more connections; what is under way is finished by `stop`."""
        if self._site is not None:
            await self._site.stop()
            self._site = None

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
        await self._certificates.close()

    @web.middleware
    async def _around(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Bounds what goes on at once and how long it takes, and counts it."""
        if self._under_way >= MOST_AT_ONCE:
            return _busy()
        self._under_way += 1
        response: web.StreamResponse | None = None
        try:
            async with asyncio.timeout(_WORK_SECONDS):
                response = await handler(request)
        except web.HTTPException as refusal:
            response = refusal
            raise
        except (
            TimeoutError,
            OSError,
            asyncpg.PostgresError,
            asyncpg.InterfaceError,
            asyncpg.InternalClientError,
        ) as error:
            if not is_unavailable(error):
                log.error("public_request_failed", error=type(error).__name__)
            response = _busy()
        finally:
            self._under_way -= 1
            route = request.match_info.route.resource
            status = 500 if response is None else response.status
            metrics.PUBLIC_REQUESTS.labels(route.canonical if route else "none", str(status)).inc()
        return response

    async def _show(self, request: web.Request) -> web.Response:
        subscriber = self._links.read(request.match_info["token"])
        if subscriber is None:
            return _html(pages.unknown(), 404)
        return _html(pages.preferences(subscriber.address))

    async def _unsubscribe(self, request: web.Request) -> web.Response:
        subscriber = self._links.read(request.match_info["token"])
        try:
            form = read_form(request.headers.get("Content-Type", ""), await _read(request, MAX_FORM_BYTES))
        except RefusedError as refusal:
            return _html(pages.unclear(), refusal.status)
        if subscriber is None:
            return _html(pages.unknown(), 404)
        if form.get(ONE_CLICK[0]) == ONE_CLICK[1]:
            return await self._suppress(subscriber, "one-click", everything=False)
        everything = _SCOPES.get(form.get("scope", ""))
        if everything is None:
            return _html(pages.unclear(), 400)
        return await self._suppress(subscriber, "preference-page", everything=everything)

    async def _suppress(self, subscriber: Subscriber, source: str, *, everything: bool) -> web.Response:
        connection = "" if everything else subscriber.connection
        await self._people.unsubscribe(subscriber.address, connection, source, now_us())
        log.info("unsubscribed", connection=connection or "all", source=source)
        return _html(pages.done(subscriber.address, everything=everything))

    def _webhook(self, provider: str, take: _Taker) -> _Handler:
        """The handler of a provider's webhook: the connection, the message, and what becomes of it."""

        async def handle(request: web.Request) -> web.StreamResponse:
            id_ = parse_id("connections", request.match_info["connection"])
            try:
                found = (await self._catalog.find(self._pool, [id_])).connections if id_ else {}
                connection = found.get(id_)
                if connection is None or connection.WhichOneof("kind") != provider:
                    raise RefusedError(404, "there is no such connection")
                await take(connection, id_, request)
            except RefusedError as refusal:
                self._say(provider, id_, refusal)
                return web.Response(status=refusal.status, text=f"{refusal.why}\n")
            return web.Response(text="taken\n")

        return handle

    async def _take_ses(self, connection: pb.Connection, id_: str, request: web.Request) -> None:
        topic = connection.ses.feedback_topic_arn
        if not topic:
            raise RefusedError(404, "the connection has no feedback_topic_arn")
        body, now = await _read(request, MAX_BODY_BYTES), now_us()
        envelope = feedback_ses.read_envelope(body, topic, now)
        feedback_ses.verify(envelope, await self._certificates.get(envelope.signing_cert_url), now)
        if envelope.type == feedback_ses.SUBSCRIPTION:
            await self._certificates.confirm(envelope.subscribe_url)
            log.info("sns_subscription_confirmed", connection=id_)
        elif envelope.type == feedback_ses.NOTIFICATION:
            await self._report(feedback_ses.read_event(envelope, id_, now), now)

    async def _take_sendgrid(self, connection: pb.Connection, id_: str, request: web.Request) -> None:
        key = connection.sendgrid.feedback_public_key
        if not key:
            raise RefusedError(404, "the connection has no feedback_public_key")
        body, now = await _read(request, MAX_BODY_BYTES), now_us()
        signature = request.headers.get(feedback_sendgrid.SIGNATURE_HEADER, "")
        timestamp = request.headers.get(feedback_sendgrid.TIMESTAMP_HEADER, "")
        feedback_sendgrid.verify(key, signature, timestamp, body, now)
        await self._report(feedback_sendgrid.read_events(body, id_, now), now)

    async def _report(self, feedback: list[Feedback], now: int) -> None:
        if feedback:
            await self._people.report(feedback, now)
        for one in feedback:
            metrics.FEEDBACK.labels(
                one.provider, pb.FeedbackKind.Name(pb.FeedbackKind.ValueType(one.kind))
            ).inc()

    def _say(self, provider: str, connection: str, refusal: RefusedError) -> None:
        """One line for a refusal; for many of the same kind, one each second."""
        now = time.monotonic()
        key = (provider, refusal.why)
        if now - self._said.get(key, -_LOG_EVERY_SECONDS) >= _LOG_EVERY_SECONDS:
            self._said[key] = now
            log.warning("feedback_refused", provider=provider, connection=connection, why=refusal.why)


def read_form(content_type: str, body: bytes) -> dict[str, str]:
    """The fields of a form, urlencoded (also where nothing says so) or multipart; RefusedError for what is neither."""
    if content_type.lower().startswith("multipart/form-data"):
        return _read_multipart(content_type, body)
    try:
        return dict(parse_qsl(body.decode("utf-8", "replace").strip(), max_num_fields=10))
    except ValueError:
        raise RefusedError(400, "the form has too many fields") from None


def _read_multipart(content_type: str, body: bytes) -> dict[str, str]:
    head = f"Content-Type: {' '.join(content_type.split())}\r\n\r\n".encode("utf-8", "replace")
    message: Message = BytesParser(policy=HTTP).parsebytes(head + body)
    fields = {}
    for part in message.walk():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if isinstance(name, str) and isinstance(content, bytes):
            fields[name] = content.decode("utf-8", "replace").strip()
    return fields


async def _read(request: web.Request, most: int) -> bytes:
    """The body, if it is not larger than that and comes in time."""
    body = bytearray()
    try:
        async with asyncio.timeout(_READ_SECONDS):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > most:
                    raise RefusedError(413, f"the body is larger than {most:,} bytes")
    except TimeoutError:
        raise RefusedError(408, "the body did not come in time") from None
    return bytes(body)


def _html(page: str, status: int = 200) -> web.Response:
    return web.Response(text=page, content_type="text/html", status=status)


def _busy() -> web.Response:
    response = _html(pages.later(), 503)
    response.headers["Retry-After"] = "5"
    return response


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(pages.HEADERS)
    response.headers.pop("Server", None)
