"""Leaving the terminal to bonbon's own words."""

import logging
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging

from bonbon.errors import BonbonError
from bonbon.models.shortage import lacks_disk, lacks_memory, on_gpu


@contextmanager
def in_plain_words(*, when_memory_is_full: str) -> Generator[None]:
    """Silence what libraries say on the way, and say in one line when memory or disk runs out.

    Args:
        when_memory_is_full: what to do about it.

    Raises:
        BonbonError: memory is full, or a file could not be written whole.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        if not sys.warnoptions:  # -W and PYTHONWARNINGS bring them back
            warnings.simplefilter("ignore")
        try:
            yield
        except BonbonError:
            raise
        except Exception as error:
            if lacks_memory(error):
                whose = "the GPU's memory" if on_gpu(error) else "memory"
                raise BonbonError(
                    f"{whose} is full ({_reason(error)}); {when_memory_is_full}"
                ) from error
            if lacks_disk(error):
                file = getattr(error, "filename", None) or "a file"
                raise BonbonError(
                    f"{file} could not be written whole ({_reason(error)}), as happens when the "
                    "disk is full; make room and run the same command again: what is done stays "
                    "done"
                ) from error
            raise


def _reason(error: Exception) -> str:
    """Return the first sentence of what a library says, for one line."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    lines = text.strip().splitlines() or [type(error).__name__]
    return lines[0].partition(". ")[0].removesuffix(".")[:200] or type(error).__name__
