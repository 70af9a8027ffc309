"""Owns the way to Amazon SES, by version 2 of its API: one request a message, and what each answer means.

Guarantee: at most once after the request was sent: SES has no key that would make a repetition harmless, so an answer that is missing or
not SES' own leaves the message UNKNOWN. An error of SES itself says that nothing was sent ("if the call fails, Amazon SES returns an error
message and does not send the email": https://docs.aws.amazon.com/ses/latest/dg/troubleshoot-error-messages.html), also with a status
of 500 or 503 where a header says that it is AWS's, and AWS's own clients repeat those.
"""

import re

import msgspec
from yarl import URL

from cairn.activation import wire
from cairn.activation.channels import sigv4
from cairn.activation.channels.base import ChannelKind, ChannelTools, UnreachableError, down, failed
from cairn.activation.channels.findings import Findings
from cairn.activation.channels.http import Answer, HttpClient
from cairn.activation.channels.mail_api import MailApiChannel, check_common
from cairn.activation.channels.mail_maker import Mail, MailMaker
from cairn.activation.ledger import Fate, Guarantee, Outcome
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.clock import now_us

MAX_MESSAGE_BYTES = 40 * 1024 * 1024
"""Largest message, base64 included: https://docs.aws.amazon.com/ses/latest/dg/quotas.html."""

_DESTINATION = "Amazon SES"
_SERVICE = "ses"
_SEND_PATH = "/v2/email/outbound-emails"
_ACCOUNT_PATH = "/v2/email/account"

_REGION = re.compile(r"[a-z]{2}(-[a-z]+)+-[0-9]{1,2}")
_ACCESS_KEY_ID = re.compile(r"[A-Za-z0-9_]{16,128}")
_CONFIGURATION_SET = re.compile(r"[A-Za-z0-9_-]{0,64}")
_TOPIC = re.compile(r"(arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256})?")
# https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_MessageTag.html
_TAG_VALUE = re.compile(r"[A-Za-z0-9_-]{1,256}")
_ERROR_NAME = re.compile(r"[A-Za-z]{1,80}")
_ERROR_HEADER = "x-amzn-ErrorType"

# The errors of https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html and CommonErrors.html, without a closing
# `Exception`, which some have and some lack. What is about the account passes, or is mended by its owner: all messages wait.
_PASSING = {
    "TooManyRequests": "it takes no more for now",
    "LimitExceeded": "it takes no more for now",
    "Throttling": "it takes no more for now",
    "RequestLimitExceeded": "it takes no more for now",
    "ServiceUnavailable": "it is in trouble",
    "InternalFailure": "it is in trouble",
    "InternalServer": "it is in trouble",
    "InternalServiceError": "it is in trouble",
    "RequestTimeout": "the request took too long",
    "SendingPaused": "the account's sending is paused",
    "AccountSuspended": "the account may not send any more; another one is needed",
    "MailFromDomainNotVerified": "the sender's domain is not verified",
    "NotFound": "there is no such configuration set",
    "AccessDenied": "the access key may not do this; it needs ses:SendEmail and ses:SendRawEmail",
    "NotAuthorized": "the access key may not do this; it needs ses:SendEmail and ses:SendRawEmail",
    "UnrecognizedClient": "the access key is not known",
    "InvalidClientTokenId": "the access key is not known",
    "InvalidAccessKeyId": "the access key is not known",
    "OptInRequired": "the account has not opted in to this service",
    "SignatureDoesNotMatch": "the signature is wrong: renew the secret key",
    "InvalidSignature": "the signature is wrong: renew the secret key",
    "IncompleteSignature": "the signature is wrong: renew the secret key",
    "MissingAuthenticationToken": "the signature is wrong: renew the secret key",
    "RequestExpired": "the time of the request is wrong: look at this machine's clock",
    "ExpiredToken": "the access key has expired: renew it",
}
_REFUSING = {
    "MessageRejected": "it does not take this message",
    "BadRequest": "it does not understand this message",
    "Validation": "it does not understand this message",
    "RequestEntityTooLarge": "the message is too large",
}


class SesChannel(MailApiChannel):
    """SES of one account in one region."""

    def __init__(self, whole: pb.Connection, tools: ChannelTools) -> None:
        connection = whole.ses
        super().__init__(
            _DESTINATION,
            MailMaker(whole, connection.from_address, connection.address_attribute, tools),
            tools,
            secret=connection.secret_key_secret,
            pool_size=connection.pool_size,
            most_bytes=MAX_MESSAGE_BYTES * 3 // 4,
        )
        self._connection = connection
        self._connection_id = wire.parse_id("connections", whole.name)
        base = connection.base_url.rstrip("/") or f"https://email.{connection.region}.amazonaws.com"
        self._send_url = URL(base + _SEND_PATH)
        self._account_url = URL(base + _ACCOUNT_PATH)

    def render(self, message: Mail) -> bytes:
        tags = {"connection": self._connection_id}
        if _TAG_VALUE.fullmatch(message.activation_id):
            # Others stand in the message's own header alone, which comes back with each event as well.
            tags["activation"] = message.activation_id
        request: dict[str, object] = {
            "FromEmailAddress": message.sender.header,
            "Destination": {"ToAddresses": [message.to]},
            "Content": {"Raw": {"Data": message.data}},
            "EmailTags": [{"Name": name, "Value": value} for name, value in tags.items()],
        }
        if self._connection.configuration_set:
            request["ConfigurationSetName"] = self._connection.configuration_set
        return msgspec.json.encode(request)

    async def post(self, secret: str, body: bytes) -> Answer | Outcome:
        return await self._call(secret, "POST", self._send_url, body)

    async def ask(self, secret: str) -> str:
        answer = await self._call(secret, "GET", self._account_url, b"")
        if isinstance(answer, Outcome):
            raise UnreachableError(answer.detail)
        account = answer.json()
        if answer.status != 200 or account is None:
            raise UnreachableError(self.read(answer).detail)
        where = "in production" if account.get("ProductionAccessEnabled") is True else "in the sandbox"
        sending = "may send" if account.get("SendingEnabled") is True else "may not send at present"
        return f"{_DESTINATION} lets us in; the account is {where} and {sending}"

    def read(self, answer: Answer) -> Outcome:
        return read_answer(answer, self._client, now_us())

    async def _call(self, secret: str, method: str, url: URL, body: bytes) -> Answer | Outcome:
        connection = self._connection
        credentials = sigv4.Credentials(connection.access_key_id, secret, connection.region, _SERVICE)
        headers = {"Content-Type": "application/json"} if body else {}
        signed = sigv4.sign(credentials, method, url, headers, body, now_us())
        return await self._client.call(method, url, headers={**headers, **signed}, body=body)


def read_answer(answer: Answer, client: HttpClient, now: int) -> Outcome:
    """What an answer means; `now` in microseconds. Of SES' words nothing is kept: they quote addresses."""
    body = answer.json()
    name = _error_name(answer, body or {})
    if 200 <= answer.status < 300:
        message_id = (body or {}).get("MessageId")
        if isinstance(message_id, str) and message_id:
            return Outcome(Fate.SENT, f"{_DESTINATION} took it", message_id[:200])
        return client.in_doubt(f"{_DESTINATION} answered HTTP {answer.status} without a MessageId")
    if not name or (_is_in_doubt(answer) and _ERROR_HEADER not in answer.headers):
        # Others have a `code` in their body, too, and may have passed the message on.
        return _read_foreign(answer, client, now)
    detail = f"{_DESTINATION} answered {name} (HTTP {answer.status})"
    kind = name.removesuffix("Exception")
    if kind in _REFUSING:
        hint = _REFUSING[kind]
        if kind == "MessageRejected" and "not verified" in str((body or {}).get("message", "")):
            hint = "an address is not verified: the sender's or, in the sandbox, the recipient's"
        return failed(f"{detail}: {hint}")
    if kind in _PASSING:
        return down(f"{detail}: {_PASSING[kind]}", answer.retry_after_us(now))
    if answer.status == 429 or answer.status >= 500:
        return down(detail, answer.retry_after_us(now))
    if answer.status in (401, 403):
        return down(f"{detail}: it does not let us in; look at the access key and its secret")
    return failed(detail)


def _read_foreign(answer: Answer, client: HttpClient, now: int) -> Outcome:
    """What an error means that is not SES' own, such as a proxy's page: one that refuses a request does not pass it on."""
    detail = f"something other than {_DESTINATION} answered HTTP {answer.status}"
    if _is_in_doubt(answer):
        return client.in_doubt(detail, answer.retry_after_us(now))
    return down(detail, answer.retry_after_us(now))


def _is_in_doubt(answer: Answer) -> bool:
    """Whether something before SES may have passed on what it answers so."""
    return answer.status >= 500 or answer.status == 408


def _error_name(answer: Answer, body: dict[str, object]) -> str:
    """The name of an error of AWS, `TooManyRequestsException`; "" when the answer has none and is not AWS's own.

    It stands in a header, with a colon and an address behind it, or in the body, with a namespace and a `#` before it.
    """
    for value in (answer.headers.get(_ERROR_HEADER), body.get("__type"), body.get("code")):
        name = value.partition(":")[0].rpartition("#")[2] if isinstance(value, str) else ""
        if _ERROR_NAME.fullmatch(name):
            return name
    return ""


def check(whole: pb.Connection, findings: Findings) -> None:
    """All that is wrong with a connection to Amazon SES."""
    connection = whole.ses
    findings.matches("ses.region", connection.region, _REGION, "is required: a region, `eu-central-1`")
    findings.matches(
        "ses.access_key_id",
        connection.access_key_id,
        _ACCESS_KEY_ID,
        "is required: the access key's id, 16 letters and digits or more",
    )
    findings.secret("ses.secret_key_secret", connection.secret_key_secret, required=True)
    findings.matches(
        "ses.configuration_set",
        connection.configuration_set,
        _CONFIGURATION_SET,
        "is at most 64 letters, digits, dashes and underscores",
    )
    findings.matches(
        "ses.feedback_topic_arn",
        connection.feedback_topic_arn,
        _TOPIC,
        "is the ARN of an SNS topic, `arn:aws:sns:eu-central-1:123456789012:feedback`",
    )
    check_common(
        "ses",
        connection.from_address,
        connection.address_attribute,
        connection.base_url,
        connection.pool_size,
        findings,
    )


KIND = ChannelKind(
    name="ses",
    guarantee=Guarantee.AT_MOST_ONCE,
    check=check,
    open=SesChannel,
    needs_template=True,
    writes_to_people=True,
)
