"""Runs on CUDA: page-locked memory, and feature maps that stay on the device unless they are asked for.

A GPU reads and writes page-locked memory by itself, while ordinary memory goes through the driver's copies.
So images go in and feature maps come out through buffers that are kept, one set for each run in flight. Maps
against known directions are computed where the feature map lies, by the graph that the artifact carries for
it; only they are copied.

Nothing here depends on CUDA but the memory, so the tests run it on the CPU.
"""

import ctypes
import weakref
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..types import Array, Pixels

_PORTABLE = 1  # cudaHostAllocPortable: page-locked for every device


class Lanes:
    """The runs of one session, any number of them at the same time."""

    def __init__(self, inference: Any, maps: Any | None, kind: str, index: int) -> None:
        """For ONNX Runtime's sessions.

        Args:
            inference: of the artifact.
            maps: of the artifact's graph of maps (see ``export.graph.map_graph``), or None.
            kind, index: the device on which both run, in ONNX Runtime's words: ``cuda`` or ``cpu``.
        """
        self.inference, self.maps, self.kind, self.index = inference, maps, kind, index
        self._input = inference.get_inputs()[0].name
        # Of an output for one image, by the image's size; not known before the first run.
        self._shapes: dict[tuple[str, tuple[int, ...]], tuple[int, ...]] = {}
        self._free: list[_Buffers] = []

    def infer(
        self, images: Sequence[Pixels], outputs: Sequence[str], options: Any | None = None
    ) -> list[Array]:
        """The outputs (N, ...) for N images (height, width, 3) of one size; the other outputs stay there.

        Args:
            images: N images (height, width, 3) of one size.
            outputs: names of outputs.
            options: ``RunOptions``.
        """
        buffers = self._take()
        binding = self._bound(images, buffers)
        size = images[0].shape
        direct: dict[str, Array] = {}
        for name in outputs:
            shape = self._shapes.get((name, size))
            if shape is None:
                binding.bind_output(name)
                continue
            value = direct[name] = buffers.array(name, (len(images), *shape), np.dtype(np.float32))
            binding.bind_output(name, "cpu", 0, np.float32, value.shape, value.ctypes.data)
        self.inference.run_with_iobinding(binding, options)
        given = dict(zip(outputs, binding.get_outputs(), strict=True))
        # The next run writes into the buffers.
        values = [direct[name].copy() if name in direct else given[name].numpy() for name in outputs]
        for name, value in zip(outputs, values, strict=True):
            self._shapes[name, size] = value.shape[1:]
        # Not after an error: the device may still be writing.
        self._free.append(buffers)
        return values

    def infer_maps(
        self,
        images: Sequence[Pixels],
        vector: str,
        places: str,
        directions: Array,
        options: Any | None = None,
    ) -> tuple[Array, Array]:
        """The output ``vector`` (N, D), and ``places . directions`` (N, H, W) without a copy of the places.

        Args:
            images: N images (height, width, 3) of one size.
            vector, places: names of outputs.
            directions: (N, D).
            options: ``RunOptions``.
        """
        assert self.maps is not None
        buffers = self._take()
        binding = self._bound(images, buffers)
        binding.bind_output(vector)
        binding.bind_output(places, self.kind, self.index)
        self.inference.run_with_iobinding(binding, options)
        embeddings, feature = binding.get_outputs()
        mapping = self.maps.io_binding()
        mapping.bind_ortvalue_input("places", feature)
        mapping.bind_cpu_input("directions", np.ascontiguousarray(directions, dtype=np.float32))
        mapping.bind_output("maps")
        self.maps.run_with_iobinding(mapping, options)
        values = embeddings.numpy(), mapping.get_outputs()[0].numpy()
        self._free.append(buffers)
        return values

    def _bound(self, images: Sequence[Pixels], buffers: "_Buffers") -> Any:
        batch = buffers.array(self._input, (len(images), *images[0].shape), np.dtype(np.uint8))
        np.stack(images, out=batch)
        binding = self.inference.io_binding()
        binding.bind_cpu_input(self._input, batch)
        return binding

    def _take(self) -> "_Buffers":
        with suppress(IndexError):
            return self._free.pop()
        return _Buffers(self.index if self.kind == "cuda" else None)


class _Buffers:
    """Memory of one run in flight, by name; it grows to the largest run."""

    def __init__(self, device: int | None) -> None:
        self.device = device
        self._kept: dict[str, Pixels] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """An array in the memory kept under a name; what was there before is lost."""
        size = int(np.prod(shape)) * dtype.itemsize
        if name not in self._kept or self._kept[name].size < size:
            self._kept[name] = page_locked(size, self.device)
        return self._kept[name][:size].view(dtype).reshape(shape)


def page_locked(size: int, device: int | None) -> Pixels:
    """``size`` bytes that the GPU ``device`` reaches by itself; ordinary ones where there is none."""
    runtime = None if device is None else _cuda_runtime()
    pointer = ctypes.c_void_p()
    if runtime is None or size == 0:
        return np.empty(size, np.uint8)
    runtime.cudaSetDevice(device)  # of this thread, so that no other device is set up
    if runtime.cudaHostAlloc(ctypes.byref(pointer), ctypes.c_size_t(size), _PORTABLE) != 0:
        runtime.cudaGetLastError()  # taken off, or the next kernel's check would find it
        return np.empty(size, np.uint8)
    memory = (ctypes.c_uint8 * size).from_address(pointer.value or 0)
    weakref.finalize(memory, runtime.cudaFreeHost, pointer).atexit = False
    return np.ctypeslib.as_array(memory)


@cache
def _cuda_runtime() -> ctypes.CDLL | None:
    """CUDA's runtime, which ONNX Runtime has brought into the process."""
    for name in ("libcudart.so.13", "libcudart.so.12", "cudart64_13.dll", "cudart64_12.dll"):
        with suppress(OSError):
            return ctypes.CDLL(name)
    return None
