"""Owns the metrics that only Definition has. Refuses labels without a bound, such as a journey's or a watcher's name."""

from prometheus_client import Counter, Gauge

JOURNEYS = Gauge("cairn_definition_journeys", "Journeys by state.", ["state"])
PUBLICATIONS = Counter("cairn_definition_publications_total", "Versions published by this process.")
REVISION = Gauge("cairn_definition_revision", "The newest revision.")
WATCHERS = Gauge("cairn_definition_watchers", "Live watchers: processes that serve journeys.")
WATCHER_LAG = Gauge(
    "cairn_definition_watcher_lag_revisions",
    "Revisions between the newest and the one that the slowest live watcher serves.",
)
WATCH_STREAMS = Gauge("cairn_definition_watch_streams", "Open WatchJourneys streams of this process.")
