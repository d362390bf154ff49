"""How far does a policy get that knows the reward's word list, and only that?

    python benchmarks/lexicon_tilt.py

Every token's logit is raised by λ times the valence that VADER's lexicon gives its word, whatever
came before: the reward, told to the policy, without looking ahead. What training from a few
thousand scored answers can be expected to reach lies below. Base and tilted answers are drawn for
the same held-out prompts as in `recipes/compare_cpu.yaml`.
"""

import argparse

import numpy as np
import torch
from machine import machine, write
from torch import Tensor
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from bonbon.cli.runtime import prepare_process
from bonbon.comparison.statistics import beaten
from bonbon.data.prompts import PromptsConfig, load_prompts
from bonbon.models.policy import Policy, PolicyConfig, load_policy
from bonbon.records import Prompt
from bonbon.rewards.lexicon import LexiconConfig
from bonbon.theory.best_of import BestOf


def main() -> None:
    """Write win rate and KL by λ."""
    parser = argparse.ArgumentParser(description="Tilt every token by the reward's lexicon.")
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--answers", type=int, default=16)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.5, 0.75, 1.0, 1.25])
    arguments = parser.parse_args()
    prepare_process()
    write(machine(f"torch {torch.__version__}"))
    policy, reward = load_policy(PolicyConfig()), LexiconConfig().load()
    asked = PromptsConfig(system="Answer in one short sentence.", num_eval=arguments.prompts)
    prompts = [one for one in load_prompts(asked) if one.split == "eval"]
    lexicon = valences(policy)

    def rewards(prompt: Prompt, strength: float) -> tuple[np.ndarray, float]:
        texts, kl = draw(policy, prompt, strength * lexicon, arguments)
        scores = reward.score([prompt] * len(texts), texts)
        return np.array([float(score or 0.0) for score in scores]), kl

    torch.manual_seed(0)
    base = [rewards(prompt, 0.0)[0] for prompt in prompts]
    write(f"{'λ':>5}{'win rate':>18}{'KL, nats':>10}{'best-of-n there':>17}")
    for strength in arguments.strengths:
        tilted = [rewards(prompt, strength) for prompt in prompts]
        wins = np.array(
            [beaten(own, other).mean() for (own, _), other in zip(tilted, base, strict=True)]
        )
        kl = float(np.mean([far for _, far in tilted]))
        error = wins.std(ddof=1) / len(wins) ** 0.5
        write(f"{strength:>5}{wins.mean():>10.3f} ±{error:.3f}{kl:>10.2f}{best_there(kl):>17.3f}")


def valences(policy: Policy) -> Tensor:
    """Return what VADER's lexicon says of every token that begins a word, 0 of all others."""
    lexicon = SentimentIntensityAnalyzer().lexicon
    words = [policy.tokenizer.decode([token]) for token in range(policy.model.config.vocab_size)]
    return torch.tensor(
        [lexicon.get(word.strip().lower(), 0.0) if word[:1] == " " else 0.0 for word in words]
    )


@torch.inference_mode()
def draw(
    policy: Policy, prompt: Prompt, shift: Tensor, arguments: argparse.Namespace
) -> tuple[list[str], float]:
    """Return answers with shifted logits, and their mean KL from the base in nats."""
    rows = torch.tensor([policy.encode(prompt)]).expand(arguments.answers, -1)
    drawn, kl, cache = [list[int]() for _ in range(arguments.answers)], 0.0, None
    running = torch.ones(arguments.answers, dtype=torch.bool)
    for _ in range(arguments.new_tokens):
        output = policy.model(input_ids=rows, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits = output.logits[:, -1].float() / arguments.temperature
        plain, moved = logits.log_softmax(-1), (logits + shift).log_softmax(-1)
        share = moved.exp()
        kl += float(((share * (moved - plain)).sum(-1) * running).sum())
        rows = torch.multinomial(share, 1)
        for row in torch.nonzero(running)[:, 0].tolist():
            drawn[row].append(int(rows[row]))
        running &= ~torch.isin(rows[:, 0], torch.tensor(policy.eos_token_ids))
        if not running.any():
            break
    return [policy.decode(tuple(tokens)) for tokens in drawn], kl / arguments.answers


def best_there(kl: float) -> float:
    """Return the win rate of best-of-n at this KL, for the real n that has it."""
    numbers = np.geomspace(1, 1e4, 4000)
    return float(np.interp(kl, [BestOf(n).kl for n in numbers], numbers / (numbers + 1)))


if __name__ == "__main__":
    main()
