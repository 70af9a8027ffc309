"""Owns what producers import: a client that sends events in batches and says what became of each."""

from cairn.client.answers import NotAcknowledgedError, Outcome, Totals
from cairn.client.batch import Pending
from cairn.client.client import ClosedError, EventClient
from cairn.client.events import event
from cairn.client.settings import EventClientSettings

__all__ = [
    "ClosedError",
    "EventClient",
    "EventClientSettings",
    "NotAcknowledgedError",
    "Outcome",
    "Pending",
    "Totals",
    "event",
]
