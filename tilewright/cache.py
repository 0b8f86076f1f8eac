"""The on-disk cache: bytes by content key, safe against crashes, corruption and other processes.

Entries are written to a temporary file and renamed, so a reader sees all of an entry or none. Each carries
its length and checksum; an entry that does not match (a crash of the machine, a bad disk) is deleted and
counts as absent. Writers of the same key write the same bytes, so the last one wins without harm. When the
cache outgrows its limit, the entries that were not used for the longest time go.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import struct
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tilewright.errors import CacheError

_MAGIC = b"TWCACHE1"
_HEADER = struct.Struct("<8sQ32s")
_STALE_SECONDS = 3600.0
_ENTRY, _FILE = ".bin", ".file"


def cache_key(*parts: bytes | str) -> str:
    """A key (64 hex digits) for the given parts; different lists of parts have different keys."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(struct.pack("<Q", len(data)))
        digest.update(data)
    return digest.hexdigest()


class DiskCache:
    """A folder of entries.

    Args:
        root: the folder; it is created when the first entry is written.
        limit_bytes: size above which old entries are deleted.
    """

    def __init__(self, root: Path | str, limit_bytes: int = 4 << 30) -> None:
        self.root = Path(root)
        self.limit_bytes = limit_bytes
        # The first write of a process looks at the whole folder, later ones after every sixteenth of it.
        self._written = limit_bytes

    def _path(self, key: str) -> Path:
        return self.root / key[:2] / f"{key}{_ENTRY}"

    def get(self, key: str) -> bytes | None:
        """The bytes stored under ``key``, or None.

        Raises:
            CacheError: the entry exists and may not be read.
        """
        path = self._path(key)
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._error("read", path, error) from error
        payload = data[_HEADER.size :]
        if data[: _HEADER.size] != self._header(payload):
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # the time of last use decides what is pruned
        return payload

    def put(self, key: str, payload: bytes) -> None:
        """Store ``payload`` under ``key``.

        Raises:
            CacheError: the disk is full, or the folder may not be written. Nothing is left behind.
        """
        path = self._path(key)
        temporary = path.with_name(f"{key}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "xb") as file:
                file.write(self._header(payload))
                file.write(payload)
            os.replace(temporary, path)
        except BaseException as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            if isinstance(error, OSError):
                raise self._error("write", path, error) from error
            raise
        self._written += len(payload)
        if self._written > self.limit_bytes // 16:
            self.prune()

    def get_file(self, key: str) -> Path | None:
        """The file stored under ``key`` by :meth:`put_file`, for mapping it into memory, or None.

        Its content is not checked here: it has a format of its own. :meth:`drop_file` forgets a damaged one.
        """
        path = self._path(key).with_suffix(_FILE)
        try:
            os.utime(path)  # the time of last use decides what is pruned
        except OSError:
            return None
        return path

    def put_file(self, key: str, write: Callable[[Path], None]) -> None:
        """Store the file that ``write`` makes at the path it is given, under ``key``.

        Raises:
            CacheError: the disk is full, or the folder may not be written. Nothing is left behind.
        """
        path = self._path(key).with_suffix(_FILE)
        temporary = path.with_name(f"{key}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(temporary)
            self._written += temporary.stat().st_size
            os.replace(temporary, path)
        except BaseException as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            cause = error if isinstance(error, OSError) else error.__cause__
            if isinstance(cause, OSError):
                raise self._error("write", path, cause) from error
            raise
        if self._written > self.limit_bytes // 16:
            self.prune()

    def drop_file(self, key: str) -> None:
        """Forget the file stored under ``key``, if there is one."""
        with contextlib.suppress(OSError):
            self._path(key).with_suffix(_FILE).unlink()

    def prune(self) -> None:
        """Delete the least recently used entries until the cache is below 4/5 of its limit, if it is above
        the limit.
        """
        self._written = 0
        entries: list[tuple[float, int, str]] = []
        now = time.time()
        for file in self._files():
            with contextlib.suppress(OSError):
                status = file.stat()
                if file.name.endswith((_ENTRY, _FILE)):
                    entries.append((status.st_mtime, status.st_size, file.path))
                elif file.name.endswith(".tmp") and now - status.st_mtime > _STALE_SECONDS:
                    os.unlink(file.path)  # left by a process that was killed while writing
        total = sum(size for _, size, _ in entries)
        if total <= self.limit_bytes:
            return
        for _, size, path in sorted(entries):
            if total <= self.limit_bytes * 4 // 5:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= size

    def clear(self) -> None:
        """Delete all entries. Raises CacheError if that is not permitted."""
        for file in self._files():
            try:
                os.unlink(file.path)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._error("delete", Path(file.path), error) from error

    def size_bytes(self) -> int:
        """Bytes of all entries."""
        total = 0
        for file in self._files():
            with contextlib.suppress(OSError):
                total += file.stat().st_size
        return total

    def _files(self) -> Iterable[os.DirEntry[str]]:
        """The files in the two-letter folders that this class makes; whatever else lies in the root is not
        touched.
        """
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.root) as folders:
            for folder in folders:
                if len(folder.name) == 2 and folder.is_dir(follow_symlinks=False):
                    with contextlib.suppress(OSError), os.scandir(folder.path) as files:
                        yield from (f for f in files if f.name.endswith((_ENTRY, _FILE, ".tmp")))

    @staticmethod
    def _header(payload: bytes) -> bytes:
        return _HEADER.pack(_MAGIC, len(payload), hashlib.sha256(payload).digest())

    def _error(self, verb: str, path: Path, error: OSError) -> CacheError:
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None)):
            what = f"the disk that holds the compile cache is full ({self.root})"
        else:
            reason = error.strerror or str(error)
            what = f"cannot {verb} the compile cache: {reason[:1].lower()}{reason[1:]}"
        return CacheError(
            what,
            location=str(path),
            hint="choose another folder (--cache-dir, TILEWRIGHT_CACHE_DIR) or go without (--no-cache)",
        )
