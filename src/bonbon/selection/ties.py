"""The coin that breaks ties: one generator per prompt."""

from hashlib import blake2b

import numpy as np


def tie_rng(seed: int, prompt_id: str) -> np.random.Generator:
    """Return a prompt's own generator for breaking ties.

    It depends on the seed and the prompt's id alone, so the order in which prompts are worked
    through changes nothing, and neither does resuming or sharding.
    """
    digest = blake2b(f"{seed}:{prompt_id}".encode(), digest_size=16, person=b"bonbon-ties")
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest.digest(), "little")))
