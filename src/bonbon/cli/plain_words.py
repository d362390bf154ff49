"""Leaving the terminal to bonbon's own words."""

import logging
import sys
import warnings
from collections.abc import Generator
from contextlib import contextmanager

import torch
from transformers.utils import logging as transformers_logging

from bonbon.errors import BonbonError


@contextmanager
def in_plain_words(*, when_memory_is_full: str) -> Generator[None]:
    """Silence what libraries say on the way, and say in one line when memory runs out.

    Args:
        when_memory_is_full: what to do about it.

    Raises:
        BonbonError: the GPU's memory is full.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        if not sys.warnoptions:  # -W and PYTHONWARNINGS bring them back
            warnings.simplefilter("ignore")
        try:
            yield
        except torch.OutOfMemoryError as error:
            reason = str(error).partition(". ")[0]
            raise BonbonError(
                f"the GPU's memory is full ({reason}); {when_memory_is_full}"
            ) from error
