"""The zip archive that `torch.save` writes: its records and storages, checked before anything is read."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import UnreadableTensor
from harness.tensors.dtypes import Array, Dtype
from harness.tensors.mapped import address, slices

try:  # the processor's own instructions, several times as fast
    from isal.isal_zlib import crc32
except ImportError:  # there are no wheels for rare processors
    from zlib import crc32

_PICKLE_LIMIT = 64 * 1024 * 1024  # a pickle holds names and shapes; the numbers are elsewhere in the archive
_SLICE = 1 << 22  # bytes that are summed up at a time
_LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch/serialization.py: MAGIC_NUMBER, pickled


@dataclass(frozen=True)
class _Member:
    """A member of the archive: where its bytes lie in the file, and their CRC-32; 0 where none was kept."""

    name: str
    begin: int
    end: int
    crc: int


class Checksum:
    """Holds a member's bytes against their CRC-32, which torch writes and does not look at.

    torch can be told to keep none (`torch.serialization.set_crc32_options`), and then writes 0.
    """

    def __init__(self, path: Path, raw: Array, member: _Member) -> None:
        self._path, self._raw, self._member = path, raw[member.begin : member.end], member
        self._taken = 0, 0  # so many bytes, and their CRC-32

    def take(self, part: Array) -> None:
        """Take bytes that somebody just looked at, while a cache has them, if they are those that come next."""
        begin, crc = self._taken
        here = self._raw[begin : begin + part.nbytes]
        if self._member.crc and here.nbytes == part.nbytes and address(here) == address(part):
            self._taken = begin + part.nbytes, crc32(here.data, crc)

    def __call__(self) -> None:
        """Take all others.

        Raises:
            UnreadableTensor: they are not the bytes that were saved.
        """
        begin, crc = self._taken
        for part in slices(self._raw[begin:], _SLICE) if self._member.crc else ():
            crc = crc32(part.data, crc)
        if crc != self._member.crc:
            raise UnreadableTensor(
                f"{self._path} is damaged: the bytes of its member {self._member.name!r} are not those that were "
                "saved, as the file's own checksum (CRC-32) shows; copy the file again from where it came from."
            )


@dataclass(frozen=True)
class Storage:
    """A stretch of the archive: bytes in the file, elements of `dtype`; `check` holds them against their CRC-32."""

    raw: Array
    dtype: Dtype
    check: Checksum


# Records of a zip file (PKWARE APPNOTE 4.3 and 4.4), each with its signature first.
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_WIDE = 0xFFFFFFFF  # stands for a number that is in the extra field
_ENCRYPTED = 1 | 1 << 5 | 1 << 6 | 1 << 13
_FOLDER = 0x10  # of the external attributes
_NUMBER = re.compile(r"\s*([0-9]+)\s*", re.ASCII)
_VERSIONS = range(1, 11)  # caffe2/serialize/versions.h


class Archive:
    """The members of the zip file, as stretches of the mapped file.

    A zip file can be read from either end, by its directory or by the members' own headers, and has no rule for two
    members of one name, so that readers differ. torch's (caffe2/serialize/inline_container.cc, over miniz) takes the
    last end record, offsets from the file's first byte, and names without regard to case. Here a file must leave no
    choice: it begins with a member and ends with its end record, the directory lies right before that and lists each
    name once, and the headers agree with it; so torch.save writes them.
    """

    def __init__(self, path: Path, raw: Array) -> None:
        self.path = path
        self.raw = raw
        head = raw[:16].tobytes()
        if raw.size == 0:
            raise UnreadableTensor(f"{path} is empty, so it holds no tensor.")
        if head.startswith(_LEGACY_MAGIC):
            raise UnreadableTensor(
                f"{path} is in the format of torch before 1.6, which only unpickling can read; "
                "load it and save it again with a newer torch."
            )
        if not head.startswith(b"PK\x03\x04"):
            raise UnreadableTensor(
                f"{path} is not a file that torch.save wrote: it does not begin as a zip archive; save the tensor "
                "again, at the start of a file of its own."
            )
        self.members = self._list_members()
        version = _NUMBER.fullmatch(self._text(".data/version", self._text("version")))
        if version is None or int(version[1]) not in _VERSIONS:
            raise UnreadableTensor(f"{path} is not of a version of torch's format that torch reads.")
        if _NUMBER.fullmatch(self._text(".storage_alignment", "64")) is None:
            raise UnreadableTensor(f"{path} is damaged: its record .storage_alignment is no number.")
        order = self._text("byteorder", "little")
        if order not in ("little", "big"):
            raise UnreadableTensor(f"{path} names a byte order that is neither little nor big.")
        self.swapped = order == "big"
        self._text(".data/serialization_id")
        self._declared: dict[str, tuple[str, int]] = {}

    def _record(self, layout: struct.Struct, signature: bytes, at: int, what: str) -> tuple[Any, ...]:
        """The numbers of a record of the zip format, without its signature."""
        if 0 <= at <= self.raw.size - layout.size:
            found = layout.unpack(self.raw[at : at + layout.size].tobytes())
            if found[0] == signature:
                return found[1:]
        raise UnreadableTensor(f"{self.path} is truncated or damaged: {what}; copy the file again.")

    def _directory(self) -> tuple[int, int, int]:
        """Where the directory begins and ends, and how many members it lists, if it lies where everybody looks."""
        end = self.raw.size - _END.size
        disk, start_disk, here, count, size, begin, comment = self._record(
            _END, b"PK\x05\x06", end, "it does not end with the end of a zip archive"
        )
        disks, whole = 1, True
        locator = end - _LOCATOR.size
        if locator >= 0 and self.raw[locator : locator + 4].tobytes() == b"PK\x06\x07":
            _, place, disks = self._record(_LOCATOR, b"PK\x06\x07", locator, "it has no locator")
            end = locator - _END64.size
            length, _, _, disk, start_disk, here, count, size, begin = self._record(
                _END64, b"PK\x06\x06", end, "the end of its zip archive is not whole"
            )
            whole = place == end and length == _END64.size - 12
        if not whole or begin + size != end:
            raise UnreadableTensor(
                f"{self.path} holds something besides one archive, such as a second save or a header, and torch may "
                "read other numbers than are meant; save each tensor in a file of its own."
            )
        if (disk, start_disk, disks, comment) != (0, 0, 1, 0) or here != count:
            raise UnreadableTensor(f"{self.path} is damaged: its zip archive would have several parts.")
        return begin, end, count

    def _list_members(self) -> dict[bytes, _Member]:
        """The members by their names in lower case, as torch looks them up."""
        begin, end, count = self._directory()
        members: dict[bytes, _Member] = {}
        at, self.root = begin, b""
        for number in range(count):
            name, member, at = self._member(at, begin, end)
            if number == 0:
                self.root = name[: name.find(b"/") + 1]
            if not self.root or not name.startswith(self.root):
                raise UnreadableTensor(
                    f"{self.path} is a zip archive, but not one that torch.save wrote: its members lie in many folders."
                )
            if member is None:
                continue
            if name.lower() in members:
                raise UnreadableTensor(f"{self.path} holds the member {member.name!r} twice.")
            members[name.lower()] = member
        if at != end:
            raise UnreadableTensor(f"{self.path} is damaged: its directory lists more than {count} members.")
        if self.root.lower() + b"constants.pkl" in members:
            raise UnreadableTensor(f"{self.path} is a TorchScript archive, not a file of tensors.")
        if self.root.lower() + b"data.pkl" not in members:
            raise UnreadableTensor(
                f"{self.path} is a zip archive, but not one that torch.save wrote: it has no data.pkl."
            )
        return members

    def _member(self, at: int, begin: int, end: int) -> tuple[bytes, _Member | None, int]:
        """Name and place (a folder has none) of the member whose entry is at `at`, and where the next entry is."""
        fields = self._record(_ENTRY, b"PK\x01\x02", at, "its directory is not whole")
        _, _, flags, method, _, _, crc, packed, size, named, extra, comment, disk, _, attributes, header = fields
        after = at + _ENTRY.size + named + extra + comment
        if after > end:
            raise UnreadableTensor(f"{self.path} is truncated or damaged: its directory is not whole; copy it again.")
        tail = self.raw[at + _ENTRY.size : after].tobytes()
        name = tail[:named]
        shown = name.decode("utf-8", "replace")
        size, packed, header = self._widened((size, packed, header), tail[named : named + extra])
        if method != 0 or flags & _ENCRYPTED or packed != size:
            raise UnreadableTensor(
                f"{self.path}: member {shown!r} is compressed or encrypted; torch.save never does so."
            )
        # torch hands out memory as it finds it for a file that is marked as a folder.
        folder = name.endswith(b"/")
        if b"\0" in name or shown.encode() != name or disk != 0 or (attributes & _FOLDER and not folder):
            raise UnreadableTensor(f"{self.path} is damaged: its directory has an impossible member {shown!r}.")
        # The header repeats the name; its numbers may be zero, and the bytes come after a padding of its own.
        *_, length, padding = self._record(_LOCAL, b"PK\x03\x04", header, f"member {shown!r} has no local header")
        start = header + _LOCAL.size
        if self.raw[start : start + length].tobytes() != name:
            raise UnreadableTensor(f"{self.path} is damaged: the header of member {shown!r} names another.")
        start += length + padding
        if start + size > begin:
            raise UnreadableTensor(f"{self.path} is damaged: member {shown!r} would end at byte {start + size}.")
        return name, None if folder else _Member(shown, start, start + size, crc), after

    def _widened(self, numbers: tuple[int, ...], extra: bytes) -> list[int]:
        """Sizes and offset of a member, with those that need 64 bits from its extra field (APPNOTE 4.5.3)."""
        if _WIDE not in numbers:
            return list(numbers)
        at = 0
        while at + 4 <= len(extra):
            kind, length = struct.unpack_from("<2H", extra, at)
            at += 4
            if kind == 1:
                missing = numbers.count(_WIDE)
                if min(length, len(extra) - at) < 8 * missing:
                    break
                found = iter(struct.unpack_from(f"<{missing}Q", extra, at))
                return [next(found) if number == _WIDE else number for number in numbers]
            at += length
        raise UnreadableTensor(f"{self.path} is damaged: a member's size is not told.")

    def _key(self, name: str) -> bytes:
        return (self.root + name.encode()).lower()

    def _find(self, name: str) -> _Member:
        found = self.members.get(self._key(name))
        if found is None:
            raise UnreadableTensor(f"{self.path} has no member {name!r}, which its pickle refers to.")
        return found

    def _text(self, name: str, default: str = "") -> str:
        """One of the short records about the archive; `default` where there is none."""
        member = self.members.get(self._key(name))
        if member is None:
            return default
        content = self.raw[member.begin : min(member.end, member.begin + 65)].tobytes()
        if len(content) > 64 or not content.isascii():
            raise UnreadableTensor(f"{self.path} is damaged: its record {name} is not a short text.")
        return content.decode()

    def pickle(self) -> bytes:
        """The pickle of the archive."""
        member = self._find("data.pkl")
        size = member.end - member.begin
        if size > _PICKLE_LIMIT:
            raise UnreadableTensor(f"{self.path}: its pickle has {size} bytes, which no file of tensors needs.")
        Checksum(self.path, self.raw, member)()
        return self.raw[member.begin : member.end].tobytes()

    def storage(self, dtype: Dtype, key: str, numel: int) -> Storage:
        """The storage `key`, which must hold at least `numel` elements and be of one dtype and size throughout."""
        member = self._find(f"data/{key}")
        need = numel * dtype.itemsize
        if numel < 0 or need > member.end - member.begin:
            raise UnreadableTensor(
                f"{self.path} is damaged: storage {key!r} should hold {need} bytes and has {member.end - member.begin}."
            )
        # torch keeps what it made of a storage at its first mention, unless there are no bytes.
        if member.end > member.begin and self._declared.setdefault(key, (dtype.name, numel)) != (dtype.name, numel):
            raise UnreadableTensor(f"{self.path} is damaged: storage {key!r} has two sizes or dtypes.")
        return Storage(self.raw[member.begin : member.begin + need], dtype, Checksum(self.path, self.raw, member))
