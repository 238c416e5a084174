"""Kernel blocks on disk, found by what they are made of: the program, the parameters, the inputs.

A block is one `.npy` file that numpy opens as it is, beside a journal with a checksum for every
tile written. A tile counts as done only while its checksum holds: a killed computation resumes
where it stopped, and a file that was cut, overwritten or not written by us is computed again.
"""

import hashlib
import json
import re
import shutil
import zlib
from itertools import combinations, starmap
from pathlib import Path

import filelock
import jax
import numpy as np

from ntkcl.kernels.kernel import Kernel
from ntkcl.resources import MIB
from ntkcl.validation import SettingError

Region = tuple[int, int, int, int]  # rows from, to, columns from, to, in samples

# A line of the journal: a region, the checksum of its tile.
ENTRY = re.compile(r"\[(\d+), (\d+), (\d+), (\d+), (\d+)\]")


def key(kernel: Kernel, theta, x1, x2=None) -> str:
    """SHA-256 of the compiled program's text (constants of the model included), what the model
    holds beside theta, theta, x1 and x2, each with shape and type.

    The program is that of the kernel itself, so a model, an implementation or a version of this
    library that computes otherwise has another key.
    """
    factors: Any = kernel.factors.func
    held = kernel.factors.args
    one = factors.eval_shape(*held, theta, x1[:1])
    digest = hashlib.sha256(factors.lower(*held, theta, x1[:1]).as_text().encode())
    digest.update(kernel.gram.lower(one, one).as_text().encode())
    for side in (held, theta, x1, x2):
        for path, leaf in jax.tree.leaves_with_path(side):
            array = np.asarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)} {array.shape} {array.dtype};".encode())
            # As bytes: bfloat16 has no buffer of its own.
            digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        digest.update(b"|")
    return digest.hexdigest()


class Memory:
    """Where a block goes that is kept nowhere: the same steps as `Block`, in an array."""

    def __init__(self, shape: tuple[int, ...], dtype):
        self._block = np.empty(shape, dtype)

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        pass

    def missing(self, regions: list[Region]) -> list[Region]:
        return regions

    def write(self, region: Region, tile) -> None:
        _part(self._block, region)[...] = tile

    def open(self) -> np.ndarray:
        return self._block


class Follower:
    """What the other processes hold of a block that the first one writes: nothing, until it is
    there to be opened."""

    def __init__(self, folder: str | Path, name: str):
        self._path = _file(folder, name)

    def __enter__(self):
        return self

    def __exit__(self, *failure):
        pass

    def missing(self, regions: list[Region]) -> list[Region]:
        return regions

    def write(self, region: Region, tile) -> None:
        pass

    def open(self) -> np.ndarray:
        return np.lib.format.open_memmap(self._path, mode="r")


class Block:
    """One kernel block in a folder, as a context: held by this process alone until it leaves.

    `missing(regions)` says what is still to do, `write(region, tile)` does it, `open()` gives the
    array, mapped read-only.
    Raises ValueError for a folder that cannot be written or has no room.
    """

    def __init__(self, folder: str | Path, name: str, shape: tuple[int, ...], dtype):
        self.path = _file(folder, name)
        self.journal = self.path.with_suffix(".journal")
        self.shape, self.dtype = shape, np.dtype(dtype)
        if self.dtype.kind != "f":  # such as bfloat16, whose type a .npy file would lose
            raise SettingError(
                f"kernel store={folder}: blocks of {self.dtype} cannot be kept; use float32 "
                "parameters or no store"
            )
        self.head = {"format": 1, "shape": list(shape), "dtype": self.dtype.name}
        self._lock = filelock.FileLock(self.path.with_suffix(".lock"))

    def __enter__(self):
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._done = self._read_journal()
            if not self._done:
                self._make()
        except OSError as error:
            self._lock.release()
            folder = self.path.parent
            raise SettingError(
                f"kernel store={folder}: cannot be written ({error.strerror}); expected a folder "
                "of your own"
            ) from error
        except ValueError:
            self._lock.release()
            raise
        return self

    def __exit__(self, *failure):
        self._lock.release()

    def missing(self, regions: list[Region]) -> list[Region]:
        """The regions without a tile whose checksum holds; none if such tiles, of whatever size,
        make up the whole block."""
        block = self.open()
        valid = {
            region
            for region, checksum in self._done.items()
            if checksum == _checksum(_part(block, region))
        }
        whole = sum(map(_area, valid)) == self.shape[0] * self.shape[2] and not any(
            starmap(_overlap, combinations(valid, 2))
        )
        return [] if whole else [region for region in regions if region not in valid]

    def write(self, region: Region, tile) -> None:
        """First the tile, then its line in the journal: what the journal names is on disk."""
        tile = np.ascontiguousarray(tile)
        block = np.lib.format.open_memmap(self.path, mode="r+")
        _part(block, region)[...] = tile
        block.flush()
        del block  # unmapped, so that what was written does not count as this process's memory
        with self.journal.open("a") as lines:
            lines.write(json.dumps([*region, _checksum(tile)]) + "\n")

    def open(self) -> np.ndarray:
        """[n1, c, n2, c], mapped from the file and read-only."""
        return np.lib.format.open_memmap(self.path, mode="r")

    def _read_journal(self) -> dict[Region, int]:
        try:
            block = self.open()
            head, *lines = self.journal.read_text().splitlines()
            same = (block.shape, block.dtype) == (self.shape, self.dtype)
            if json.loads(head) != self.head or not same:
                return {}
        # Absent, cut short, or not ours: numpy raises many things for a damaged header,
        # tokenize.TokenError among them.
        except Exception:
            return {}
        # A kill cuts a line short.
        matches = [match for match in map(ENTRY.fullmatch, lines) if match]
        entries = [tuple(map(int, match.groups())) for match in matches]
        return {
            (top, bottom, left, right): checksum for top, bottom, left, right, checksum in entries
        }

    def _make(self):
        needed = int(np.prod(self.shape)) * self.dtype.itemsize
        free = shutil.disk_usage(self.path.parent).free
        if needed > free:
            raise SettingError(
                f"kernel store={self.path.parent}: the block needs {needed / MIB:,.0f} MiB and "
                f"{free / MIB:,.0f} MiB are free; "
                "use another folder or fewer inputs"
            )
        self.path.unlink(missing_ok=True)
        np.lib.format.open_memmap(self.path, mode="w+", dtype=self.dtype, shape=self.shape)
        self.journal.write_text(json.dumps(self.head) + "\n")


def _file(folder, name):
    return Path(folder) / f"{name}.npy"


def _part(block, region: Region):
    top, bottom, left, right = region
    return block[top:bottom, :, left:right]


def _area(region: Region) -> int:
    top, bottom, left, right = region
    return (bottom - top) * (right - left)


def _overlap(a: Region, b: Region) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def _checksum(tile) -> int:
    return zlib.crc32(np.ascontiguousarray(tile).data)
