"""What holds for every test of the workspace."""

import os

from hypothesis import HealthCheck, settings

# gRPC's fork handlers run in each child that a test starts and can bring it down; nobody here forks without exec.
# Before anything imports grpc.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# How long an example takes says something about the machine, and nothing about the code.
settings.register_profile("cairn", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cairn")
