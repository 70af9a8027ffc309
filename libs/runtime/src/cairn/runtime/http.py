"""Owns `/metrics` and `/healthz` over HTTP. Refuses everything else: the contract is gRPC."""

from aiohttp import web
from prometheus_client import REGISTRY
from prometheus_client.exposition import choose_encoder

from cairn.runtime.errors import StartupError
from cairn.runtime.server import check_port
from cairn.runtime.settings import ServiceSettings, environment_name


class HttpServer:
    """The small HTTP server beside the gRPC one."""

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        self._serving = False
        self.port = 0
        application = web.Application()
        application.router.add_get("/metrics", self._metrics)
        application.router.add_get("/healthz", self._healthz)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)

    async def start(self) -> None:
        """Takes the port and answers; StartupError when it is in use."""
        settings = self._settings
        check_port(settings, settings.http_host, settings.http_port, "http_port")
        await self._runner.setup()
        site = web.TCPSite(self._runner, settings.http_host, settings.http_port)
        try:
            await site.start()
        except OSError:
            name = environment_name(settings, "http_port")
            raise StartupError(f"port {settings.http_port} can't be taken ({name}).") from None
        self.port = self._runner.addresses[0][1]

    def set_serving(self, serving: bool) -> None:
        """What `/healthz` answers from now on: 200 or 503."""
        self._serving = serving

    async def stop(self) -> None:
        """Closes the port."""
        await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        status = "SERVING" if self._serving else "NOT_SERVING"
        return web.json_response({"status": status}, status=200 if self._serving else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(REGISTRY), headers={"Content-Type": content_type})
