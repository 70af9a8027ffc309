"""What holds for every test of the workspace."""

import os

# gRPC's fork handlers run in each child that a test starts and can bring it down; nobody here forks without exec.
# Before anything imports grpc.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
