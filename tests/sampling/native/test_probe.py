"""When the logits of two ways of decoding agree."""

import pytest
import torch

from bonbon.sampling.native.probe import logits_agree

PLAIN = torch.randn(16, 50, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("dtype", "noise", "flipped", "expected"),
    [
        (torch.float32, 1e-4, 0, True),
        (torch.float32, 1e-4, 1, False),
        (torch.float32, 1e-2, 0, False),
        (torch.bfloat16, 5e-2, 0, True),
        (torch.bfloat16, 5e-2, 4, True),
        (torch.bfloat16, 5e-2, 5, False),
        (torch.bfloat16, 0.5, 0, False),
    ],
)
def test_coarse_rounding_may_flip_a_few_rows(
    dtype: torch.dtype, noise: float, flipped: int, expected: bool
) -> None:
    shared = PLAIN + noise * torch.randn(PLAIN.shape, generator=torch.Generator().manual_seed(1))
    shared[:flipped] = shared[:flipped].flip(1)
    assert logits_agree(shared, PLAIN, dtype) is expected


def test_numbers_that_are_none_never_agree() -> None:
    assert not logits_agree(torch.full_like(PLAIN, torch.nan), PLAIN, torch.bfloat16)
