"""Who may call what: every call of the three services has a role, and the door asks for it."""

import pytest
from google.protobuf.descriptor import ServiceDescriptor

from cairn.api.activation.v1 import activation_pb2
from cairn.api.evaluator.v1 import evaluator_pb2
from cairn.api.scheduler.v1 import scheduler_pb2
from cairn.evaluator import api
from cairn.runtime.service import Role


def service(module: object, name: str) -> ServiceDescriptor:
    return module.DESCRIPTOR.services_by_name[name]  # type: ignore[attr-defined]


SERVICES = [
    (service(evaluator_pb2, "EvaluatorService"), api.FULL_NAME, api.ROLES, api.EvaluatorApi),
    (service(scheduler_pb2, "TimerSinkService"), api.TIMER_SINK_NAME, api.TIMER_SINK_ROLES, api.TimerSinkApi),
    (
        service(activation_pb2, "ReceiptSinkService"),
        api.RECEIPT_SINK_NAME,
        api.RECEIPT_SINK_ROLES,
        api.ReceiptSinkApi,
    ),
]


@pytest.mark.parametrize(
    ("descriptor", "full_name", "roles", "servicer"), SERVICES, ids=[each[1] for each in SERVICES]
)
def test_every_call_has_a_role_and_is_served(descriptor, full_name, roles, servicer) -> None:
    assert descriptor.full_name == full_name
    assert {method.name for method in descriptor.methods} == set(roles)
    assert set(roles) <= set(vars(servicer))


def test_what_changes_is_not_open_to_readers() -> None:
    assert {name for name, role in api.ROLES.items() if role is Role.READ} == {
        "GetProfile",
        "GetEnrollment",
        "ListEnrollments",
        "GetTimeline",
        "Explain",
        "Simulate",
        "SimulateOnce",
        "ExportProfiles",
        "ListProfiles",
        "PreviewRun",
        "GetRun",
        "ListRuns",
    }
