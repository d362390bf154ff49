"""Kill runs at random moments, let them go on, and compare what they end with bit by bit.

    python benchmarks/crash_campaign.py --trials 40 --seed 0

Half of the trials draw with the built-in engine, half from a local server, which repeats itself, as
its draws hang on the seed of a request alone. Every trial is killed up to four times with SIGKILL,
anywhere between its start and its end. Exits with 1 if any trial ends otherwise than a run that
nobody kills: in a candidate, a score, a weight or a number of the evaluation.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import Request, urlopen

import torch
from safetensors.torch import load_file

from bonbon.data.store import CandidateStore
from bonbon.evaluation.metrics import read_metrics
from bonbon.models.policy import Policy
from bonbon.models.toy import toy_policy
from bonbon.records import Prompt

WORDS, TOKENS = 4, 3
"""Of the toy policy, and of its answers: few enough for a server that knows all its logits."""

SERVER = Path(__file__).parents[1] / "tests" / "openai_server.py"

# Small shards, so that kills fall between them too.
BONBON = """
import sys
from bonbon.pipeline import sample as candidates
candidates.PROMPTS_PER_SHARD = 8
from bonbon.cli.main import main
sys.argv[0] = "bonbon"
main()
"""

RECIPE = """
name: crash
policy: {{model: policy, dtype: float32, device: cpu}}
prompts: {{path: prompts.jsonl}}
sampling: {{n: 4, temperature: 1.0, max_new_tokens: 3, engine: {engine}}}
reward: digits:total
training: {{learning_rate: 1.0e-3, precision: float32, checkpoints: 6, epochs: 2, batch_size: 4}}
evaluation: {{base_samples: 6, policy_samples: 3, num_resamples: 100}}
"""


def make_place(place: Path, url: str) -> None:
    """Write a toy policy, prompts, a reward and two recipes, and put the policy on the server."""
    policy = toy_policy(num_words=WORDS, sharpness=2.0)
    policy.model.save_pretrained(place / "policy")
    policy.tokenizer.save_pretrained(place / "policy")
    texts = [" ".join(map(str, words)) for words in product(range(WORDS), repeat=3)]
    rows = [
        {"id": f"p{index:02d}", "prompt": text, "split": "train" if index < 48 else "eval"}
        for index, text in enumerate(texts)
    ]
    (place / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (place / "digits.py").write_text(
        "import time\n"
        "def total(prompts, completions):\n"
        "    time.sleep(0.05)\n"
        "    return [sum(map(float, each.split())) + len(each) / 100 for each in completions]\n"
    )
    served = f"{{kind: openai, base_url: {url}/v1, model: toy, concurrency: 4}}"
    (place / "transformers.yaml").write_text(RECIPE.format(engine="transformers"))
    (place / "openai.yaml").write_text(RECIPE.format(engine=served))
    settings = {"name": "toy", "end": policy.eos_token_ids[0], "delay": 0.02}
    body = {**settings, "logits": logits_of(policy, texts)}
    urlopen(Request(f"{url}/put", data=json.dumps(body).encode())).close()


@torch.inference_mode()
def logits_of(policy: Policy, texts: Sequence[str]) -> dict[str, list[float]]:
    """Return the policy's logits after each prompt with every beginning of an answer."""
    table: dict[str, list[float]] = {}
    words = policy.encode(Prompt(id="", content=" ".join(map(str, range(WORDS))), split="train"))
    for text in texts:
        prompt = policy.encode(Prompt(id="", content=text, split="train"))
        for length in range(TOKENS):
            for answer in product(words[-WORDS:], repeat=length):
                ids = (*prompt, *answer)
                logits = policy.model(torch.tensor([ids])).logits[0, -1]
                table[" ".join(map(str, ids))] = logits.tolist()
    return table


def run_bonbon(place: Path, engine: str, out: str, *, kill_after: float | None = None) -> bool:
    """Run to the end, or to a kill; return whether it came to its end."""
    command = [sys.executable, "-c", BONBON, "run", f"{engine}.yaml", "--out", out]
    with subprocess.Popen(
        command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            _, said = process.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return False
    if process.returncode:
        raise SystemExit(f"{out} ended with {process.returncode}: {said[-2000:]}")
    return True


def differences(ours: Path, theirs: Path) -> list[str]:
    """Name what two runs ended with that is not the same to the last bit."""
    found: list[str] = []
    mine, others = CandidateStore(ours), CandidateStore(theirs)
    for name in ("train", "eval-base", "eval-bonbon"):
        if mine.read(name) != others.read(name):
            found.append(f"candidates of {name}")
        if mine.read_scores(name, "total") != others.read_scores(name, "total"):
            found.append(f"scores of {name}")
    weights = [load_file(run / "model" / "model.safetensors") for run in (ours, theirs)]
    if any(not weights[0][name].equal(weight) for name, weight in weights[1].items()):
        found.append("weights")
    if (ours / "kl.json").read_bytes() != (theirs / "kl.json").read_bytes():
        found.append("KL")
    if read_metrics(ours).methods != read_metrics(theirs).methods:
        found.append("metrics")
    return found


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def campaign(place: Path, *, trials: int, seed: int) -> int:
    """Run the trials and return how many ended otherwise than a run that nobody killed."""
    rng = random.Random(seed)
    seconds: dict[str, float] = {}
    for engine in ("transformers", "openai"):
        began = time.perf_counter()
        run_bonbon(place, engine, f"whole-{engine}")
        seconds[engine] = time.perf_counter() - began
    num_different = 0
    say(f"{'trial':>5}  {'engine':<12}  {'kills':>5}  differs in")
    for trial in range(trials):
        engine = ("transformers", "openai")[trial % 2]
        out, kills = f"trial-{trial}", 0
        for _ in range(rng.randint(1, 4)):
            if run_bonbon(place, engine, out, kill_after=rng.uniform(0.1, 1) * seconds[engine]):
                break
            kills += 1
        run_bonbon(place, engine, out)
        found = differences(place / out, place / f"whole-{engine}")
        num_different += bool(found)
        say(f"{trial:>5}  {engine:<12}  {kills:>5}  {', '.join(found) or '-'}")
    say(f"{trials - num_different} of {trials} trials are bit-equal")
    return num_different


def main() -> None:
    """Read the options and run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options: Any = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with (
        TemporaryDirectory() as folder,
        subprocess.Popen(
            [sys.executable, str(SERVER)], stdout=subprocess.PIPE, text=True
        ) as server,
    ):
        assert server.stdout is not None
        try:
            make_place(Path(folder), server.stdout.readline().strip())
            different = campaign(Path(folder), trials=options.trials, seed=options.seed)
        finally:
            server.kill()
    sys.exit(1 if different else 0)


if __name__ == "__main__":
    main()
