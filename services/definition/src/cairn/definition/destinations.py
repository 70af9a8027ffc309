"""Owns the question to Activation: do the destinations that journeys name exist, and are they named rightly?

Refuses to guess: when Activation does not answer, neither do we.
"""

from collections.abc import Sequence

import grpc
import structlog

from cairn.api.activation.v1.activation_pb2 import CheckDestinationsRequest, DestinationProblem
from cairn.api.activation.v1.activation_pb2_grpc import ActivationServiceStub
from cairn.definition.drafts import NamedDestination
from cairn.runtime.errors import FieldViolation, unavailable

log = structlog.get_logger()

RETRY_AFTER_SECONDS = 1.0


class DestinationChecker:
    """Asks Activation over a channel that its maker opens and closes; each question waits `timeout_s` at most."""

    def __init__(self, channel: grpc.aio.Channel, timeout_s: float) -> None:
        self._stub = ActivationServiceStub(channel)
        self._timeout_s = timeout_s

    async def check(self, named: Sequence[NamedDestination]) -> list[FieldViolation]:
        """What is wrong with the destinations, each problem at the path of the activation that names it.

        Raises CairnError PEER_UNAVAILABLE when Activation gives no answer, for whatever reason.
        """
        if not named:
            return []
        request = CheckDestinationsRequest(destinations=[one.destination for one in named])
        try:
            answer = await self._stub.CheckDestinations(request, timeout=self._timeout_s)
        except grpc.aio.AioRpcError as error:
            log.warning("destinations_unchecked", code=error.code().name)
            raise unavailable(
                "Activation, which knows connections and templates,", RETRY_AFTER_SECONDS
            ) from error
        return [_violation(named, problem) for problem in answer.problems]


def _violation(named: Sequence[NamedDestination], problem: DestinationProblem) -> FieldViolation:
    return FieldViolation(f"{named[problem.index].path}.{problem.field}", problem.description)
