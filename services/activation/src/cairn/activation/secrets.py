"""Owns the way from a secret's name to its value. Refuses to keep, log or return one to a caller."""

import contextlib
import os
import re
from pathlib import Path

NAME = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")


class MissingSecretError(Exception):
    """The secret is nowhere; the text says where it was looked for."""


class Secrets:
    """Named secrets in files of one folder, or in environment variables. Read anew each time, so that they can be changed."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, name: str) -> str:
        """The secret's value; MissingSecretError when there is none. An empty one is none: anybody could sign with it."""
        if not NAME.fullmatch(name):
            raise MissingSecretError("the name of a secret is lower-case letters, digits and dashes")
        value = ""
        if self._folder is not None:
            with contextlib.suppress(OSError, UnicodeDecodeError):
                value = (self._folder / name).read_text(encoding="utf-8").strip()
        variable = f"CAIRN_SECRET_{name.upper().replace('-', '_')}"
        value = value or os.environ.get(variable, "")
        if not value:
            raise MissingSecretError(
                f"the secret `{name}` is missing: write the file `{name}` in the folder of "
                f"CAIRN_ACTIVATION_SECRETS_DIR, or set {variable}"
            )
        return value
