"""Recognises errors of a full memory or disk, which every library words differently."""

import errno

import torch
from safetensors import SafetensorError

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}

DISK_MESSAGES = (
    "No space left on device",
    "Disk quota exceeded",
    "File too large",
    # torch's archive writer does not pass on the system's reason.
    "inline_container.cc",
    "PytorchStreamWriter failed writing",
    "iostream error",
)

MEMORY_MESSAGES = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "Cannot allocate memory",
    "std::bad_alloc",
    "bad allocation",
    "could not create a primitive",  # oneDNN, which gives no reason
    "can't start new thread",
)


def is_gpu_memory(error: BaseException) -> bool:
    """Return whether the memory that is full is a GPU's."""
    return isinstance(error, torch.OutOfMemoryError)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error means that memory, of a GPU or of the machine, is full."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return _contains(error, MEMORY_MESSAGES)


def is_out_of_disk(error: BaseException) -> bool:
    """Return whether an error means that the disk is full, or a file too large for it."""
    if isinstance(error, OSError):
        return error.errno in DISK_ERRORS
    return _contains(error, DISK_MESSAGES)


def _contains(error: BaseException, messages: tuple[str, ...]) -> bool:
    return isinstance(error, RuntimeError | SafetensorError) and any(
        message in str(error) for message in messages
    )
