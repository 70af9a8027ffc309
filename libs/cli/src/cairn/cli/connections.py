"""Owns `cairn connections`: showing, trying and deleting ways out, and whom an audience should hold."""

import asyncio
from collections.abc import AsyncIterator

import click

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.cli.asking import confirm, yes_option
from cairn.cli.connect import Services, all_items
from cairn.cli.documents import write_document
from cairn.cli.failures import CommandError
from cairn.cli.listing import ListsByDefault, show_list
from cairn.cli.names import resource, short
from cairn.cli.options import json_option, limit_option, service_options
from cairn.cli.output import clean, print_json, print_message, print_note, show_time, state_text
from cairn.cli.rules_text import caps_text, quiet_text, rate_text

_SHOWN_OF_A_HASH = 16


@click.group(cls=ListsByDefault)
def connections() -> None:
    """List, show, try and delete ways out; without a command: list them. `cairn apply` saves them."""


@connections.command(
    "list",
    epilog="""\b
Examples:
  cairn connections list
  cairn connections list --json | jq -r .name
""",
)
@limit_option
@json_option
@service_options("activation")
def list_connections(services: Services, limit: int, as_json: bool) -> None:
    """Connections by name."""

    def items() -> AsyncIterator[pb.Connection]:
        call = services.activation.ListConnections
        return all_items(call, pb.ListConnectionsRequest(), lambda page: page.connections, limit)

    show_list(
        services,
        items,
        ("connection", "kind", "leads to", "rules", "changed"),
        lambda each: (
            short(each.name),
            kind_text(each),
            leads_to(each),
            _rules(each),
            show_time(each.update_time),
        ),
        limit=limit,
        as_json=as_json,
    )


@connections.command(
    epilog="""\b
Examples:
  cairn connections get email
  cairn connections get email > email.yaml
"""
)
@click.argument("name")
@json_option
@service_options("activation")
def get(services: Services, name: str, as_json: bool) -> None:
    """One connection as YAML that `cairn apply` takes, or as JSON with all that the service knows of it. It holds no secret."""

    async def fetch() -> pb.Connection:
        async with services:
            request = pb.GetConnectionRequest(name=resource("connections", name))
            return (await services.activation.GetConnection(request)).connection

    found = asyncio.run(fetch())
    if as_json:
        print_message(found)
    else:
        click.echo(write_document("connection", found), nl=False)


@connections.command(
    epilog="""\b
Examples:
  cairn connections test email
  cairn connections test email --json | jq .ok
"""
)
@click.argument("name")
@json_option
@service_options("activation")
def test(services: Services, name: str, as_json: bool) -> None:
    """Speak to a connection's destination without sending anything: is it there, and does it let us in?

    The exit code is 1 when not. An ad platform shows only that it is there. `cairn send-test` sends a message.
    """

    async def ask() -> pb.TestConnectionResponse:
        async with services:
            request = pb.TestConnectionRequest(name=resource("connections", name))
            return await services.activation.TestConnection(request)

    answer = asyncio.run(ask())
    if as_json:
        print_json({"ok": answer.ok, "detail": answer.detail, "latency_ms": answer.latency_ms})
    if not answer.ok:
        raise CommandError(f"{short(name)} can't be used: {clean(answer.detail)}")
    if not as_json:
        told = f": {answer.detail}" if answer.detail else ""
        print_note(f"{short(name)} can be used{told} ({answer.latency_ms} ms).")


@connections.command(
    epilog="""\b
Examples:
  cairn connections members meta-audience
  cairn connections members meta-audience --include-removed
  cairn connections members meta-audience --limit 0 --json > members.jsonl
"""
)
@click.argument("name")
@click.option("--include-removed", is_flag=True, help="Also those who were removed.")
@limit_option
@json_option
@service_options("activation")
def members(services: Services, name: str, include_removed: bool, limit: int, as_json: bool) -> None:
    """Whom an audience should hold: all whom we put there and did not remove, by the platform's own answers.

    Compare it with what the platform shows. Platforms count late and tell no single member; in the table hashes are cut,
    with --json they are whole.
    """

    def items() -> AsyncIterator[pb.AudienceMember]:
        call = services.activation.ListAudienceMembers
        request = pb.ListAudienceMembersRequest(
            connection=resource("connections", name), include_removed=include_removed
        )
        return all_items(call, request, lambda page: page.members, limit)

    show_list(
        services,
        items,
        ("profile", "state", "known to the platform as", "since", "by delivery"),
        lambda each: (
            each.profile_id or "(erased)",
            state_text("ADDED" if each.present else "REMOVED"),
            ", ".join(f"{key} {_cut(value)}" for key, value in sorted(each.identifiers.items())),
            show_time(each.update_time),
            each.activation_id,
        ),
        limit=limit,
        as_json=as_json,
    )


@connections.command(
    epilog="""\b
Examples:
  cairn connections delete old-email
  cairn connections delete old-email --yes
"""
)
@click.argument("name")
@yes_option
@json_option
@service_options("activation")
def delete(services: Services, name: str, yes: bool, as_json: bool) -> None:
    """Delete a connection. What is pending on it fails."""
    confirm(f"Delete {short(name)}? What is pending on it fails.", yes=yes)

    async def remove() -> None:
        async with services:
            request = pb.DeleteConnectionRequest(name=resource("connections", name))
            await services.activation.DeleteConnection(request)

    asyncio.run(remove())
    if as_json:
        print_json({"connection": short(name), "result": "deleted"})
    else:
        print_note(f"Deleted {short(name)}.")


async def require_connection(services: Services, name: str) -> None:
    """Fails for a connection that does not exist, where the service takes any name; an empty name is none."""
    if name:
        await services.activation.GetConnection(pb.GetConnectionRequest(name=resource("connections", name)))


def kind_text(connection: pb.Connection) -> str:
    """The kind of a connection as its document says it, `smtp`; of a plug-in its channel."""
    kind = connection.WhichOneof("kind") or ""
    return f"plugin {connection.plugin.channel}" if kind == "plugin" else str(kind)


def leads_to(connection: pb.Connection) -> str:
    """Where a connection leads, in words."""
    kind = connection.WhichOneof("kind")
    match kind:
        case "smtp":
            return (
                f"{connection.smtp.host}:{connection.smtp.port or 587}, from {connection.smtp.from_address}"
            )
        case "ses":
            return f"Amazon SES in {connection.ses.region}, from {connection.ses.from_address}"
        case "sendgrid":
            return f"SendGrid, from {connection.sendgrid.from_address}"
        case "meta_audience":
            return f"Meta audience {connection.meta_audience.audience_id}"
        case "google_audience":
            google = connection.google_audience
            return f"Google audience {google.audience_id} of account {google.account_id}"
        case "tiktok_audience":
            tiktok = connection.tiktok_audience
            return f"TikTok audience {tiktok.audience_id} of advertiser {tiktok.advertiser_id}"
        case "linkedin_audience":
            return f"LinkedIn segment {connection.linkedin_audience.segment_id}"
        case "webhook":
            return connection.webhook.url
        case "log":
            return "nowhere"
    return ""


def _rules(connection: pb.Connection) -> str:
    """What holds back what would leave."""
    parts = []
    if connection.HasField("rate_limit"):
        parts.append(f"at most {rate_text(connection.rate_limit)}")
    if connection.HasField("quiet_hours"):
        parts.append(quiet_text(connection.quiet_hours))
    parts += caps_text(connection.frequency_caps)
    if connection.requires_consent:
        parts.append("with consent only")
    if connection.mail.transactional:
        parts.append("transactional")
    return "; ".join(parts)


def _cut(value: str) -> str:
    return value if len(value) <= _SHOWN_OF_A_HASH else f"{value[:_SHOWN_OF_A_HASH]}..."
