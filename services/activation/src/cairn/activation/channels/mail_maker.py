"""Owns the way from a claim to a message that only has to be handed over, the same for every channel that writes mail."""

from dataclasses import dataclass

from cairn.activation import wire
from cairn.activation.channels import mail
from cairn.activation.channels.base import ChannelTools, Letter, attribute, failed, read_context, retry
from cairn.activation.channels.dkim import BadKeyError, Signer
from cairn.activation.ledger import Outcome
from cairn.activation.secrets import MissingSecretError
from cairn.activation.templates import Message, TemplateError, with_roots
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.clock import now_us

DEFAULT_ADDRESS_ATTRIBUTE = "email"

SES_REPLACES = frozenset({"Date", "Message-ID"})
"""What SES replaces on the way, so that a signature must not cover it.

https://docs.aws.amazon.com/ses/latest/dg/send-email-authentication-dkim-manual.html
"""

_SES_SMTP_HOSTS = ".amazonaws.com"


@dataclass(frozen=True, slots=True)
class Mail:
    """A message that only has to be handed over.

    `to` is the bare address, `data` the whole signed message, `message` its words before they became MIME; `unsubscribe_url` is "" where
    the message offers no unsubscribing.
    """

    to: str
    data: bytes
    message_id: str
    sender: mail.Sender
    message: Message
    activation_id: str
    unsubscribe_url: str


class MailMaker:
    """Makes the messages of one connection."""

    def __init__(
        self, whole: pb.Connection, from_address: str, address_attribute: str, tools: ChannelTools
    ) -> None:
        sender = mail.parse_sender(from_address)
        assert sender is not None, "checked when the connection was put"
        self.sender = sender
        self._attribute = address_attribute or DEFAULT_ADDRESS_ATTRIBUTE
        self._connection_id = wire.parse_id("connections", whole.name)
        self._unsubscribe_url = None if whole.mail.transactional else tools.unsubscribe_url
        self._signer: Signer | None = None
        options = whole.mail
        if options.dkim_domain:
            self._signer = Signer(
                options.dkim_domain,
                options.dkim_selector,
                lambda: tools.secrets.read(options.dkim_key_secret),
                SES_REPLACES if _leaves_through_ses(whole) else (),
            )

    def make(self, letter: Letter) -> Mail | Outcome:
        """The message of a claim, or why there can be none."""
        if letter.template is None:
            return failed("an e-mail needs a template")
        variables = read_context(letter.claim.context)
        if isinstance(variables, Outcome):
            return variables
        name = self._attribute
        text = attribute(variables, name)
        if not text.strip():
            return failed(f"the profile has no address (attribute `{name}`)")
        to = mail.parse_address(text)
        if not to:
            return failed(f"the profile's address is none that a mail server takes (attribute `{name}`)")
        url = "" if self._unsubscribe_url is None else self._unsubscribe_url(self._connection_id, to)
        try:
            message = letter.template.render(with_roots(variables, url))
        except TemplateError as error:
            return failed(str(error))
        return self._compose(message, to, letter.claim.activation_id, url)

    def key_problem(self) -> str:
        """Why the DKIM key can't be used at present; "" when it can, or there is none."""
        try:
            if self._signer is not None:
                self._signer.load_key()
        except MissingSecretError as error:
            return str(error)
        except BadKeyError as error:
            return f"the DKIM key can't be used: {error}"
        return ""

    def _compose(self, message: Message, to: str, activation_id: str, url: str) -> Mail | Outcome:
        now_seconds = now_us() // 1_000_000
        headers, body = mail.compose(
            message,
            sender=self.sender,
            to=to,
            activation_id=activation_id,
            sent_seconds=now_seconds,
            unsubscribe_url=url,
        )
        message_id = headers["Message-ID"]
        if self._signer is not None:
            if problem := self.key_problem():
                return retry(problem)
            headers = {"DKIM-Signature": self._signer.sign(headers, body, now_seconds), **headers}
        data = mail.assemble(headers, body)
        return Mail(to, data, message_id, self.sender, message, activation_id, url)


def _leaves_through_ses(whole: pb.Connection) -> bool:
    return whole.WhichOneof("kind") == "ses" or whole.smtp.host.lower().endswith(_SES_SMTP_HOSTS)
