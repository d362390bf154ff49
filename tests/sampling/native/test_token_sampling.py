"""Tokens are sampled exactly from the softmax, by random numbers that depend on the position."""

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from bonbon.sampling.native.token_sampling import BLOCK, sample_tokens, uniforms


def test_draws_follow_the_softmax() -> None:
    """Chi-square over a vocabulary that does not fill its last block; false alarms 1 in 1000."""
    generator = torch.Generator().manual_seed(0)
    vocabulary, rows, temperature = BLOCK + 44, 200_000, 0.7
    logits = torch.randn(vocabulary, generator=generator)
    uniform = torch.rand(rows, generator=generator, dtype=torch.float64)
    token, _ = sample_tokens(logits.expand(rows, -1), uniform, temperature)
    observed = torch.bincount(token, minlength=vocabulary).numpy()
    expected = rows * (logits.double() / temperature).softmax(-1).numpy()
    assert chisquare(observed, expected * rows / expected.sum()).pvalue > 1e-3


def test_logprobs_are_those_of_the_tempered_softmax() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 5 * torch.randn(64, 1000, generator=generator)
    uniform = torch.rand(64, generator=generator, dtype=torch.float64)
    token, logprob = sample_tokens(logits, uniform, 1.3)
    expected = (logits.double() / 1.3).log_softmax(-1).gather(1, token[:, None])[:, 0]
    torch.testing.assert_close(logprob, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_a_token_without_mass_is_never_drawn(uniform: float) -> None:
    logits = torch.full((1, 3 * BLOCK + 5), -torch.inf)
    logits[0, [BLOCK + 1, 2 * BLOCK + 7]] = 0.0
    token, logprob = sample_tokens(logits, torch.tensor([uniform], dtype=torch.float64), 1.0)
    assert token.item() in {BLOCK + 1, 2 * BLOCK + 7}
    assert logprob.item() == pytest.approx(np.log(0.5))


def test_uniforms_hang_on_their_place_alone() -> None:
    long = uniforms(3, "prompt-1", 5, 20)
    np.testing.assert_array_equal(uniforms(3, "prompt-1", 5, 8), long[:8])
    other_keys = [
        uniforms(4, "prompt-1", 5, 20),
        uniforms(3, "prompt-2", 5, 20),
        uniforms(3, "prompt-1", 6, 20),
        uniforms("3/train", "prompt-1", 5, 20),
    ]
    assert all(not np.isin(numbers, long).any() for numbers in other_keys)
