"""Safetensors files as byte ranges: read a header, copy entries whatever their dtype, write a file without holding it.

The format: 8 bytes of little-endian header length, a JSON header (name -> dtype, shape, byte range after the header),
the bytes. Reading and writing by range bounds the memory and carries dtypes over that no library knows.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import torch

from tritonfp4.cli.common import CliError

CHUNK = 1 << 24
#: Longest header that safetensors itself accepts.
MAX_HEADER = 100_000_000
DTYPES = {
    "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "U8": torch.uint8,
    "F8_E4M3": torch.float8_e4m3fn,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: its dtype as safetensors spells it, its shape, and its size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class Header:
    """What a file holds.

    Attributes:
        entries: by name, in the order of their bytes.
        starts: position of each tensor's first byte in the file.
        metadata: the file's string metadata.
    """

    entries: dict[str, Entry]
    starts: dict[str, int]
    metadata: dict[str, str]


def entry_of(dtype: torch.dtype, shape: Iterable[int]) -> Entry:
    """Entry of a tensor that will be written."""
    sizes = tuple(shape)
    return Entry(NAMES[dtype], sizes, dtype.itemsize * torch.Size(sizes).numel())


def read_header(path: Path) -> Header:
    """Header of a file. Raises `CliError` if it is no safetensors file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MAX_HEADER):
            raise CliError(f"{path}: not a safetensors file (its header would be {length} bytes)")
        try:
            raw = json.loads(file.read(length))
            metadata = raw.pop("__metadata__", {})
            found = sorted(
                (tuple(item["data_offsets"]), name, item["dtype"], item["shape"]) for name, item in raw.items()
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CliError(f"{path}: not a safetensors file ({type(error).__name__} in its header)") from error
    for (start, end), name, _, _ in found:
        if not 0 <= start <= end <= size - 8 - length:
            raise CliError(f"{path}: {name} lies outside the file, which is cut short or damaged")
    entries = {name: Entry(dtype, tuple(shape), end - start) for (start, end), name, dtype, shape in found}
    return Header(entries, {name: 8 + length + start for (start, _), name, _, _ in found}, metadata)


def read_bytes(file: BinaryIO, start: int, nbytes: int) -> Iterator[bytes]:
    """A byte range in pieces of at most `CHUNK`."""
    file.seek(start)
    while nbytes:
        piece = file.read(min(CHUNK, nbytes))
        if not piece:
            raise CliError(f"{file.name}: the file ends early")
        nbytes -= len(piece)
        yield piece


def tensor_bytes(t: torch.Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor, row-major."""
    yield t.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


class TensorFileWriter:
    """Writes a safetensors file whose entries are known beforehand, in any order, and puts it in place at the end.

    A context manager: the bytes go to a temporary file beside `path`, which replaces `path` when the block ends well
    and is removed when it raises; `path` is whole, old or new, at any moment.

    Args:
        path: the file to make or replace.
        entries: everything that it will hold.
        metadata: string metadata.
    """

    def __init__(self, path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
        self._entries = dict(entries)
        self._written: set[str] = set()
        self._header, self._starts, self._size = _layout(self._entries, metadata)
        self._file: BinaryIO

    def __enter__(self) -> TensorFileWriter:
        self._file = self._temporary.open("xb")
        try:
            self._file.write(self._header)
            self._file.truncate(self._size)
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Write one tensor, given as consecutive pieces of its bytes.

        Raises:
            ValueError: it was written before, or its size is not the announced one.
        """
        if name in self._written:
            raise ValueError(f"{name} is written twice")
        self._file.seek(self._starts[name])
        size = 0
        for piece in pieces:
            size += len(piece)
            if size > self._entries[name].nbytes:
                break
            self._file.write(piece)
        if size != self._entries[name].nbytes:
            raise ValueError(f"{name}: got {size} bytes or more, announced were {self._entries[name].nbytes}")
        self._written.add(name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                missing = self._entries.keys() - self._written
                if missing:
                    raise ValueError(f"never written: {sorted(missing)}")
                _commit(self._file, self._temporary, self.path)
        finally:
            self._discard()

    def _discard(self) -> None:
        """Close and remove the temporary file; after a commit there is none."""
        with contextlib.suppress(OSError):
            self._file.close()  # may fail to flush on a full disk: the bytes are thrown away anyhow
        self._temporary.unlink(missing_ok=True)


def _layout(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int], int]:
    """Header bytes, first byte of every tensor, size of the file.

    Sorted as safetensors sorts, widest elements first, so that every tensor is aligned to its element.
    """

    def width(entry: Entry) -> int:
        count = torch.Size(entry.shape).numel()
        return entry.nbytes // count if count else 0

    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    ranges = {}
    end = 0
    for name in sorted(entries, key=lambda name: (-width(entries[name]), name)):
        entry = entries[name]
        ranges[name] = end
        end += entry.nbytes
        header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": [ranges[name], end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    base = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {name: base + start for name, start in ranges.items()}, base + end


def _commit(file: BinaryIO, temporary: Path, path: Path) -> None:
    """Make an open temporary file durable and give it its name."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    temporary.replace(path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the rename itself
        finally:
            os.close(folder)


def write_text(path: Path, text: str) -> None:
    """Write a small file as `TensorFileWriter` does: whole or not at all."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(text.encode())
            _commit(file, temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
