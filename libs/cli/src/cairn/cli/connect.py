"""Owns the command's connections: one channel for each service it talks to, opened when first used."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar, cast

import grpc
from grpc_status import rpc_status

from cairn.api.activation.v1.activation_pb2_grpc import ActivationServiceStub
from cairn.api.definition.v1.definition_pb2_grpc import DefinitionServiceStub
from cairn.api.evaluator.v1.evaluator_pb2_grpc import EvaluatorServiceStub
from cairn.api.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub
from cairn.cli.failures import CommandError
from cairn.runtime.client import open_channel
from cairn.runtime.settings import ClientSettings, load_settings

if TYPE_CHECKING:
    from cairn.api.activation.v1.activation_pb2_grpc import ActivationServiceAsyncStub
    from cairn.api.definition.v1.definition_pb2_grpc import DefinitionServiceAsyncStub
    from cairn.api.evaluator.v1.evaluator_pb2_grpc import EvaluatorServiceAsyncStub
    from cairn.api.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceAsyncStub

_PAGE_SIZE = 1000

# gRPC has one code for all that keeps a connection from being made; only its words tell a closed door from no house.
_HINTS = (
    (
        "handshake failed",
        "TLS failed; does it speak TLS, and did an authority of --ca-file sign its certificate?",
    ),
    (
        "Socket closed",
        "it hung up; does it want TLS (--ca-file), and a certificate of ours "
        "(CAIRN_TLS_CERTIFICATE_FILE, CAIRN_TLS_KEY_FILE)?",
    ),
    ("", "is `cairn up` running, and is that the address?"),
)

T = TypeVar("T")


class Services:
    """The services at these addresses; use within `async with`, which closes the channels."""

    def __init__(self, addresses: Mapping[str, str], token_file: Path | None, ca_file: Path | None) -> None:
        self._addresses = dict(addresses)
        # The files that the options name, and their environment variables, are the settings of every client of ours.
        given = {"peer_token_file": token_file, "peer_ca_file": ca_file}
        self._settings = load_settings(ClientSettings).model_copy(
            update={name: value for name, value in given.items() if value}
        )
        self._channels: dict[str, grpc.aio.Channel] = {}

    @property
    def definition(self) -> "DefinitionServiceAsyncStub":
        return DefinitionServiceStub(self._channel("definition"))

    @property
    def evaluator(self) -> "EvaluatorServiceAsyncStub":
        return EvaluatorServiceStub(self._channel("evaluator"))

    @property
    def scheduler(self) -> "SchedulerServiceAsyncStub":
        return SchedulerServiceStub(self._channel("scheduler"))

    @property
    def activation(self) -> "ActivationServiceAsyncStub":
        return ActivationServiceStub(self._channel("activation"))

    def _channel(self, service: str) -> grpc.aio.Channel:
        if service not in self._channels:
            self._channels[service] = open_channel(self._addresses[service], self._settings)
        return self._channels[service]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for channel in self._channels.values():
            await channel.close()
        if isinstance(error, grpc.aio.AioRpcError) and _never_arrived(error):
            places = ", ".join(f"{service} at {self._addresses[service]}" for service in self._channels)
            raise CommandError(f"no answer from {places}: {_hint(error)}") from error


def _never_arrived(error: grpc.aio.AioRpcError) -> bool:
    """Whether no service of ours answered: what one says itself carries details."""
    unreachable = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    try:
        # The aio error has what is asked of a call, but its stubs do not say so.
        return error.code() in unreachable and rpc_status.from_call(cast("grpc.Call", error)) is None
    except ValueError:
        return False


def _hint(error: grpc.aio.AioRpcError) -> str:
    words = error.details() or ""
    return next(hint for sign, hint in _HINTS if sign in words)


class _Page(Protocol):
    @property
    def next_page_token(self) -> str: ...


P = TypeVar("P", bound=_Page)


async def all_items(
    call: Callable[[Any], Awaitable[P]], request: Any, items: Callable[[P], Sequence[T]], limit: int
) -> AsyncIterator[T]:
    """The items of a paged list, at most `limit` (0: all). `items` takes them out of a page; `request` is used up."""
    left = limit or None
    while True:
        request.page_size = min(left or _PAGE_SIZE, _PAGE_SIZE)
        page = await call(request)
        for item in items(page):
            yield item
            if left is not None:
                left -= 1
                if left == 0:
                    return
        if not page.next_page_token:
            return
        request.page_token = page.next_page_token
