"""The fused head gives the log-probabilities and gradients of a plain log-softmax."""

import pytest
import torch
from torch import Tensor

from bonbon.models.packed import fused_head as head
from bonbon.models.packed.fused_head import fused_head_logprobs

TOKENS, WIDTH, VOCABULARY = 9, 5, 23


@pytest.fixture(params=[1, 7, 23], ids="slices of {}".format)
def _sliced(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "MAX_LOGITS_CPU", request.param * TOKENS)
    monkeypatch.setattr(head, "MIN_SLICE", 1)


def drawn(spread: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH) * spread
    weight, upstream = torch.randn(VOCABULARY, WIDTH), torch.randn(TOKENS)
    return hidden, weight, torch.randint(0, VOCABULARY, (TOKENS,)), upstream


def plain(hidden: Tensor, weight: Tensor, target: Tensor, scale: float) -> Tensor:
    logits = scale * (hidden.double() @ weight.double().T)
    return logits.log_softmax(dim=-1).gather(1, target[:, None])[:, 0]


@pytest.mark.usefixtures("_sliced")
@pytest.mark.parametrize("spread", [1.0, 60.0], ids=["flat", "peaked"])
@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("scale", [1.0, 0.7])
def test_slices_give_what_the_whole_gives(*, trained: bool, scale: float, spread: float) -> None:
    hidden, weight, target, upstream = drawn(spread)
    results: list[tuple[Tensor, ...]] = []
    for way in (fused_head_logprobs, plain):
        inputs = hidden.clone().requires_grad_(), weight.clone().requires_grad_(trained)
        logprobs = way(*inputs, target, scale)
        wanted = inputs if trained else inputs[:1]
        results.append((logprobs, *torch.autograd.grad(logprobs, wanted, upstream.to(logprobs))))
    for fused, reference in zip(*results, strict=True):
        torch.testing.assert_close(fused.double(), reference.double(), atol=1e-3, rtol=1e-4)


@pytest.mark.usefixtures("_sliced")
def test_a_probability_is_never_above_one_in_bfloat16() -> None:
    hidden, weight, _, _ = drawn(60.0)
    hidden = hidden.to(torch.bfloat16)
    likeliest = (hidden @ weight.to(torch.bfloat16).T).argmax(dim=-1)
    logprobs = fused_head_logprobs(hidden, weight, likeliest, 1.0)
    assert bool((logprobs <= 0).all())
