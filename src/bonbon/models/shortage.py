"""Errors that mean that the machine has too little memory or disk, however libraries word them."""

import errno

import torch
from safetensors import SafetensorError

DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

DISK_WORDS = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    # torch's writer of archives, which keeps the system's reason to itself.
    "inline_container.cc",
    "PytorchStreamWriter failed writing",
    "iostream error",
)

MEMORY_WORDS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "Cannot allocate memory",
    "std::bad_alloc",
    "bad allocation",
    "could not create a primitive",  # oneDNN, which keeps its reason to itself
    "can't start new thread",
)


def on_gpu(error: BaseException) -> bool:
    """Return whether the memory that is full is a GPU's."""
    return isinstance(error, torch.OutOfMemoryError)


def lacks_memory(error: BaseException) -> bool:
    """Return whether an error means that memory, the GPU's or the machine's, is full."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = isinstance(error, RuntimeError | SafetensorError)
    return words and any(each in str(error) for each in MEMORY_WORDS)


def lacks_disk(error: BaseException) -> bool:
    """Return whether an error means that a file could not be written whole."""
    if isinstance(error, OSError):
        return error.errno in DISK
    words = isinstance(error, RuntimeError | SafetensorError)
    return words and any(each in str(error) for each in DISK_WORDS)
