"""How far a model has moved from its base on each prompt, kept beside its metrics."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bonbon.data.atomic_file import replace_text
from bonbon.evaluation.kl import PromptKL
from bonbon.models.attention_choice import packed_attention_in
from bonbon.models.logprobs import completion_logprobs, require_numbers
from bonbon.models.packing import PromptGroup, pack
from bonbon.models.policy import Policy
from bonbon.records import ScoredGroup

KL_FILE = "kl.json"


def write_kl(directory: Path, prompt_ids: Sequence[str], kl: PromptKL) -> None:
    """Keep the KL of every held-out prompt, in nats, by both estimators."""
    table = {
        prompt: {"rao_blackwell": exact, "monte_carlo": drawn}
        for prompt, exact, drawn in zip(
            prompt_ids, kl.rao_blackwell.tolist(), kl.monte_carlo.tolist(), strict=True
        )
    }
    replace_text(directory / KL_FILE, json.dumps(table, indent=1) + "\n")


def read_kl(directory: Path) -> dict[str, dict[str, float]]:
    """Return what `write_kl` kept, by prompt."""
    return json.loads((directory / KL_FILE).read_text(encoding="utf-8"))


@torch.inference_mode()
def group_logprobs(
    policy: Policy,
    groups: Sequence[ScoredGroup],
    *,
    temperature: float,
    bfloat16: bool = False,
    on_group: Callable[[int], None] | None = None,
) -> list[float]:
    """Return every candidate's summed log-probability under a policy, in nats.

    Args:
        policy: reads the candidates.
        groups: candidates by prompt.
        temperature: divides the logits; it is part of the policy.
        bfloat16: multiply matrices in it, as training does, whatever the weights are in.
        on_group: called after each group with the number of its completions' tokens.
    """
    numbers: list[float] = []
    packed = [
        PromptGroup(
            group.candidates[0].prompt_token_ids,
            tuple(candidate.token_ids for candidate in group.candidates),
        )
        for group in groups
    ]
    with packed_attention_in(policy.model, packed) as layout:
        for group, one in zip(groups, packed, strict=True):
            batch = pack([one], layout).to(policy.device)
            with torch.autocast(policy.device.type, torch.bfloat16, enabled=bfloat16):
                logprobs = completion_logprobs(policy.model, batch, temperature=temperature)
            of_group = logprobs.double().tolist()
            require_numbers(of_group, f"reading prompt {group.prompt_id!r}")
            numbers.extend(of_group)
            if on_group is not None:
                on_group(sum(map(len, one.completions)))
    return numbers
