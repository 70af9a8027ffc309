"""Owns identifiers in SQL that can't be parameters. Refuses all but plain lower-case names, so quoting is safe."""

import re

_PLAIN = re.compile(r"[a-z_][a-z0-9_]{0,62}")


def quoted(name: str) -> str:
    """A schema's, role's or table's plain name for use in SQL; a dotted one is quoted part by part.

    Raises ValueError for anything else: such names come from our own code, never from a caller.
    """
    parts = name.split(".")
    if not all(_PLAIN.fullmatch(part) for part in parts):
        raise ValueError(f"{name!r} is not a plain name of a schema, role or table")
    return ".".join(f'"{part}"' for part in parts)
