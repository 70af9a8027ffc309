"""Makes the stubs in libs/api from protos/, or says which committed ones are stale.

python tools/protos.py            write them
python tools/protos.py --check    exit 1 and name each stale, missing or left-over file
"""

import argparse
import filecmp
import shutil
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
STUBS = ROOT / "libs" / "api" / "src"


def generate(target: Path) -> None:
    """Writes messages, services and their types below `target`, with a `py.typed` for each package."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    includes = resources.files("grpc_tools") / "_proto"
    code = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTOS}",
            f"--proto_path={includes}",
            f"--python_out={target}",
            f"--grpc_python_out={target}",
            f"--mypy_out={target}",
            f"--mypy_grpc_out={target}",
            *sources,
        ]
    )
    if code != 0:
        raise SystemExit(f"protos: the compiler failed with code {code}")
    drop_empty_services(target)


def drop_empty_services(target: Path) -> None:
    """Removes service stubs of protos that declare no service: the generator writes them all the same."""
    for stub in target.rglob("*_pb2_grpc.py"):
        if "class " not in stub.read_text():
            stub.unlink()
            stub.with_suffix(".pyi").unlink(missing_ok=True)


def files(folder: Path) -> set[Path]:
    """The generated files below a folder, relative to it."""
    return {
        path.relative_to(folder)
        for pattern in ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
        for path in folder.rglob(pattern)
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a stub is stale")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        generate(fresh)
        made, committed = files(fresh), files(STUBS)
        if check:
            stale = sorted(
                str(path)
                for path in made | committed
                if path not in made
                or path not in committed
                or not filecmp.cmp(fresh / path, STUBS / path, shallow=False)
            )
            for name in stale:
                print(f"protos: {name} is stale; run `make protos`", file=sys.stderr)
            return 1 if stale else 0
        for path in committed - made:
            (STUBS / path).unlink()
        for path in made:
            (STUBS / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(fresh / path, STUBS / path)
    print(f"protos: {len(made)} stubs written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
