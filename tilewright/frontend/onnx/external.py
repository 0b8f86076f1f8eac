"""External data: tensors kept in files beside the model, mapped and never read as a whole.

Where a file lies is written in the model, which may come from anywhere: it has to be below the model's
folder. Symbolic links are followed only inside of it, unless ``Options.follow_links`` says otherwise (model
hubs keep files under other names and link to them).
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

import numpy as np
import onnx

from tilewright.config import options
from tilewright.errors import ModelFileError
from tilewright.frontend.onnx.files import text


class ExternalData:
    """The files of external data of one model. Each is mapped once, so that tensors share its memory.

    Args:
        folder: where the model lies; None for one that did not come from a file.
        location: the model, for messages.
    """

    def __init__(self, folder: Path | None, location: str) -> None:
        self.folder = folder
        self.location = location
        self._maps: dict[Path, np.ndarray] = {}

    def read(self, tensor: onnx.TensorProto, expected: int, what: str) -> np.ndarray:
        """The bytes of ``tensor``, called ``what`` in messages: a view of the mapped file.

        They are as many as the file says, else ``expected``.

        Raises ModelFileError when the file is missing, too short, no plain file, or outside of the folder, or
        when the entries contradict each other.
        """
        entries = self._entries(tensor, what)
        path = self._path(entries.get("location", ""), what)
        data = self._maps.get(path)
        if data is None:
            data = self._maps[path] = self._map(path, what)
        offset = self._number(entries, "offset", 0, what)
        length = self._number(entries, "length", expected, what)
        if offset + length > len(data):
            raise self._error(
                f"{what} needs bytes {offset} to {offset + length} of '{path.name}', "
                f"which has only {len(data)}"
            )
        return data[offset : offset + length]

    def _entries(self, tensor: onnx.TensorProto, what: str) -> dict[str, str]:
        entries: dict[str, str] = {}
        for entry in tensor.external_data:
            key = text(entry.key, f"an entry of the external data of {what}", self.location)
            if key in entries:
                raise self._error(f"{what} gives '{key}' of its external data twice")
            entries[key] = text(entry.value, f"'{key}' of the external data of {what}", self.location)
        return entries

    def _number(self, entries: Mapping[str, str], key: str, default: int, what: str) -> int:
        word = entries.get(key)
        if word is None:
            return default
        if not (word.isascii() and word.isdecimal() and len(word) < 19):
            raise self._error(f"{what} gives '{word[:40]}' as the {key} of its external data")
        return int(word)

    def _path(self, name: str, what: str) -> Path:
        """The file, links followed, checked to lie below the folder."""
        if self.folder is None:
            raise ModelFileError(
                f"{what} keeps its data in the file '{name}', which can only be found beside a model file",
                location=self.location,
                hint="pass the model's path instead of its bytes",
            )
        if not name:
            raise self._error(f"{what} does not say which file holds its external data")
        # Exporters write '/' whatever the system; a backslash is a separator on some and a letter on others.
        parts = PurePosixPath(name.replace("\\", "/")).parts
        if name[0] in "/\\" or ".." in parts or PureWindowsPath(name).drive:
            raise self._error(f"{what} points outside the model's folder: '{name}'")
        try:
            root = self.folder.resolve()
            path = root.joinpath(*parts).resolve()
            if not path.is_relative_to(root) and not options().follow_links:
                raise self._error(
                    f"{what} points outside the model's folder, by a symbolic link: '{name}'",
                    "--follow-links (TILEWRIGHT_FOLLOW_LINKS=1) allows it for models that you trust",
                )
            if not path.exists():
                raise self._error(f"{what} needs the data file '{name}', which is missing")
            if not path.is_file():
                raise self._error(f"{what} keeps its data in '{name}', which is not a plain file")
        except (OSError, ValueError, RuntimeError) as error:  # too long, a zero byte, a loop of links
            raise self._unreadable(name, what, error) from error
        return path

    def _map(self, path: Path, what: str) -> np.ndarray:
        try:
            with path.open("rb") as file:
                if not path.stat().st_size:
                    return np.empty(0, np.uint8)
                return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
        except (OSError, ValueError, OverflowError) as error:
            raise self._unreadable(path.name, what, error) from error

    def _unreadable(self, name: str, what: str, error: Exception) -> ModelFileError:
        reason = getattr(error, "strerror", None) or str(error)
        return self._error(f"{what} needs the data file '{name}', which cannot be read: {reason}")

    def _error(self, message: str, hint: str | None = None) -> ModelFileError:
        return ModelFileError(message, location=self.location, hint=hint)
