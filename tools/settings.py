"""Makes the settings tables in services/*/README.md from the settings classes, or says which committed ones are stale.

python tools/settings.py            write them
python tools/settings.py --check    exit 1 and name each stale file
"""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from cairn.runtime.settings import ServiceSettings
from cairn.runtime.settings_docs import render_settings_table

ROOT = Path(__file__).resolve().parent.parent
BEGIN = "<!-- settings -->\n"
END = "<!-- /settings -->"


def settings_class(service: str) -> type[ServiceSettings]:
    """The one settings class that a service ("evaluator") declares in its `settings` module."""
    module = importlib.import_module(f"cairn.{service}.settings")
    declared = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, ServiceSettings)
        and value.__module__ == module.__name__
    ]
    if len(declared) != 1:
        raise SystemExit(f"settings: {module.__name__} declares {len(declared)} settings classes, not one")
    return declared[0]


def with_table(readme: str, table: str) -> str:
    """The README with `table` between its markers. Raises ValueError unless there is exactly one pair of them."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end or BEGIN in after or END in after:
        raise ValueError(f"needs one pair of the lines {BEGIN.strip()} and {END}")
    return f"{before}{BEGIN}{table}{END}{after}"


def main(argv: Sequence[str], root: Path = ROOT) -> int:
    """Runs the command line on the checkout in `root`; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a table is stale")
    check = parser.parse_args(argv).check
    failed = False
    services = sorted(path.parent for path in root.glob("services/*/pyproject.toml"))
    for folder in services:
        readme = folder / "README.md"
        name = readme.relative_to(root)
        try:
            text = readme.read_text(encoding="utf-8")
            fresh = with_table(text, render_settings_table(settings_class(folder.name)))
        except FileNotFoundError:
            print(f"settings: {name} is missing", file=sys.stderr)
            failed = True
            continue
        except ValueError as error:
            print(f"settings: {name} {error}", file=sys.stderr)
            failed = True
            continue
        if check and fresh != text:
            print(f"settings: {name} is stale; run `make docs`", file=sys.stderr)
            failed = True
        elif fresh != text:
            readme.write_text(fresh, encoding="utf-8")
    if not failed and not check:
        print(f"settings: {len(services)} tables are up to date")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
