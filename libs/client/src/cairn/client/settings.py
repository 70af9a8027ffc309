"""Owns the settings of the event client: how channels are opened, and its own sizes and times."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from cairn.runtime.settings import ClientSettings


class EventClientSettings(ClientSettings):
    """How events are sent. Read from the environment where an argument does not say otherwise."""

    model_config = SettingsConfigDict(env_prefix="CAIRN_CLIENT_")

    batch_events: int = Field(500, ge=1, le=10_000, description="Most events in a batch.")
    batch_bytes: int = Field(
        1024 * 1024,
        ge=64 * 1024,
        le=1024 * 1024 * 1024,
        description="Most bytes in a batch; never more than `max_message_bytes` allows. A larger event is refused.",
    )
    batch_age_seconds: float = Field(
        0.005,
        ge=0,
        le=60,
        description="How long a batch waits for more events while others are under way, in seconds. When none is, it "
        "leaves at once.",
    )
    batches_in_flight: int = Field(
        8,
        ge=1,
        le=64,
        description="Most batches that are under way at once; an Evaluator works on 16 of a stream. With 1 the events of "
        "a profile keep their order whatever fails.",
    )
    max_events: int = Field(
        20_000, ge=1, le=10_000_000, description="Most events without an answer; then `submit` waits."
    )
    max_bytes: int = Field(
        64 * 1024 * 1024,
        ge=64 * 1024,
        le=16 * 1024 * 1024 * 1024,
        description="Most bytes of events without an answer; then `submit` waits.",
    )
    deadline_seconds: float = Field(
        120.0,
        gt=0,
        le=86_400,
        description="How long an event is tried before it is given up, in seconds; by then it has been sent as often as "
        "the delays allow.",
    )
    answer_seconds: float = Field(
        45.0,
        gt=0,
        le=3600,
        description="When nothing has been answered for so long, in seconds, the stream is opened anew. An Evaluator may "
        "wait 30 for `min_revision`.",
    )
