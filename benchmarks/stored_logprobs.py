"""How far log-probabilities are apart that the same weights give in different ways.

    python benchmarks/stored_logprobs.py     # about two minutes on 2 cores

Completions are drawn in bfloat16; their log-probabilities come from the sampler, from a packed
bfloat16 forward as in training, and from a packed float32 forward.
"""

import argparse

import numpy as np
import torch
from machine import write

from bonbon.data.prompts import PromptsConfig, load_prompts
from bonbon.models.packed.probe import choose_layout
from bonbon.models.policy import PolicyConfig, load_policy
from bonbon.sampling.config import SamplingConfig
from bonbon.sampling.native.sampler import TransformersSampler
from bonbon.sampling.rescoring import rescored_candidates
from bonbon.theory.best_of import BestOf
from bonbon.theory.rank_targets import in_group_targets

N = 8


def main() -> None:
    """Draw, score three ways, and write the differences."""
    parser = argparse.ArgumentParser(description="Compare ways to get log-probabilities.")
    parser.add_argument("--num-prompts", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    prompts = load_prompts(PromptsConfig())[: arguments.num_prompts]
    config = SamplingConfig(n=N, max_new_tokens=64)
    half = load_policy(PolicyConfig(dtype="bfloat16"))
    whole = load_policy(PolicyConfig(dtype="float32"))
    drawn = TransformersSampler(half, config, seed=0).sample(prompts, n=N)
    groups = [drawn[start : start + N] for start in range(0, len(drawn), N)]
    ways = {"sampler, bfloat16": drawn}
    for dtype, policy in (("bfloat16", half), ("float32", whole)):
        layout = choose_layout(policy.model)
        ways[f"packed, {dtype}"] = [
            candidate
            for group in groups
            for candidate in rescored_candidates(policy, group, 1.0, layout)
        ]
    values = {
        name: np.array([candidate.logprob for candidate in way]).reshape(-1, N)
        for name, way in ways.items()
    }
    targets = np.var(in_group_targets(np.asarray(BestOf(N).rank_targets(N))), ddof=1)
    write(
        f"{len(drawn)} completions of at most 64 tokens; variance of the rank targets {targets:.1f}"
    )
    names = list(values)
    for first, second in ((0, 2), (1, 2), (0, 1)):
        difference = values[names[first]] - values[names[second]]
        within = np.var(difference, axis=1, ddof=1).mean()
        error = difference.mean(axis=1).std(ddof=1) / np.sqrt(len(difference))
        write(
            f"{names[first]} - {names[second]}: mean {difference.mean():+.3f} ± {error:.3f}, "
            f"mean size {np.abs(difference).mean():.3f}, within a group {within:.3f} "
            f"({within / targets:.1%} of the targets' variance)"
        )


if __name__ == "__main__":
    main()
