"""The Ray job with two real workers on this machine, one of which is killed."""

import io
import signal
import sys
from collections.abc import Generator, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
import ray
from tests.processes import PATIENCE, WarmPython, finished, wait_for

from bonbon.console import Console
from bonbon.data.prompts import load_prompts
from bonbon.errors import MissingExtraError, RewardError
from bonbon.models.policy import load_policy
from bonbon.pipeline import sample as candidates
from bonbon.pipeline.cache_keys import sampling_settings
from bonbon.pipeline.ray.cluster import ray_cluster, require_ray
from bonbon.pipeline.ray.job import RayEngine
from bonbon.pipeline.ray.worker import (
    tries_directory,
)
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.pipeline.sample import SetPlan, draw_set, is_drawn, open_set
from bonbon.pipeline.score import score_sets
from bonbon.pipeline.stage import recorded_counts
from bonbon.recipe import Recipe, dump_recipe
from bonbon.records import Candidate, CandidateKey, Prompt
from bonbon.rewards.function import FunctionConfig
from bonbon.sampling.base import OnPrompt, Progress
from bonbon.sampling.native.sampler import TransformersSampler

SEED = "0/train"
NUM_SAMPLES = 4

pytestmark = [
    # Ray Data warns of settings of its own that it copies from one place to another.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.context"),
    pytest.mark.usefixtures("rewards_importable"),
]

DEADLY = """
import os, pathlib, signal, time

def total(prompts, completions):
    "Wait until two workers are inside; the first to go on kills its process, once."
    inside = pathlib.Path("inside")
    inside.mkdir(exist_ok=True)
    (inside / str(os.getpid())).touch()
    deadline = time.monotonic() + 600
    while len(list(inside.iterdir())) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        pathlib.Path("killed").touch(exist_ok=False)
    except FileExistsError:
        return [sum(map(float, completion.split())) for completion in completions]
    pathlib.Path("killed").write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGKILL)
"""

TROUBLED = """
import pathlib, time

def total(prompts, completions):
    "Never come back from the third call, and refuse the fifth."
    calls = pathlib.Path("calls")
    calls.mkdir(exist_ok=True)
    number = 1 + len(list(calls.iterdir()))
    (calls / str(number)).touch()
    while number == 3:
        time.sleep(0.1)
    if number == 5:
        raise ZeroDivisionError("nothing to divide by")
    return [sum(map(float, completion.split())) for completion in completions]
"""

DRIVER = """
import sys
from pathlib import Path
from bonbon.data.prompts import load_prompts
from bonbon.pipeline import sample as candidates
from bonbon.pipeline.cache_keys import sampling_settings
from bonbon.pipeline.ray.job import RayEngine
from bonbon.pipeline.stage import recorded_counts
from bonbon.pipeline.run_directory import RunDirectory
from bonbon.recipe import load_recipe
from bonbon.console import Console

candidates.PROMPTS_PER_SHARD = 8
recipe = load_recipe(Path("driver.yaml"))
prompts = [each for each in load_prompts(recipe.prompts) if each.split == "train"]
settings = sampling_settings(recipe, "train", prompts, 4)
plan = candidates.SetPlan("train", prompts, 4, settings, keep=True)
run_directory = RunDirectory(Path("run"), recipe, Console())
engine = RayEngine(num_workers=1, address=sys.argv[1])
with run_directory.opened():
    run_directory.write_recipe()
    stage = candidates.open_set(run_directory, plan)
    engine.draw_set(run_directory, plan, stage, recipe.policy, seed="0/train")
"""


class Place:
    """A run of the toy's recipe in the current directory, and the same without Ray beside it."""

    def __init__(self, recipe: Recipe, reward: str) -> None:
        self.recipe = recipe.model_copy(update={"reward": FunctionConfig(function=reward)})
        self.said = io.StringIO()
        self.prompts = [each for each in load_prompts(recipe.prompts) if each.split == "train"]
        settings = sampling_settings(self.recipe, "train", self.prompts, NUM_SAMPLES)
        self.plan = SetPlan("train", self.prompts, NUM_SAMPLES, settings, keep=True)

    def run_directory(self, name: str = "run") -> RunDirectory:
        return RunDirectory(Path(name), self.recipe, Console(file=self.said, width=500))

    def draw_on_ray(self, engine: RayEngine, *, with_scores: bool = True) -> None:
        run_directory = self.run_directory()
        with run_directory.opened():
            run_directory.write_recipe()
            stage = open_set(run_directory, self.plan)
            engine.draw_set(
                run_directory,
                self.plan,
                stage,
                self.recipe.policy,
                seed=SEED,
                with_scores=with_scores,
            )

    def draw_in_one_process(self, name: str, *, stop_after: int | None = None) -> None:
        """Draw without Ray, all or the first few shards."""
        run_directory = self.run_directory(name)
        policy = load_policy(self.recipe.policy)
        sampler = TransformersSampler(policy, self.recipe.sampling, seed=SEED)
        with run_directory.opened():
            run_directory.write_recipe()
            stage = open_set(run_directory, self.plan)
            stopping = Stopping(sampler, stop_after)
            draw_set(run_directory, self.plan, stage, lambda: nullcontext((stopping, {})))

    def score(self) -> None:
        """Run the scoring stage."""
        run_directory = self.run_directory()
        with run_directory.opened():
            reward = self.recipe.reward.load()
            score_sets(run_directory, [self.plan], lambda: reward)


class Stopping:
    """Draws as another sampler does, until it is interrupted."""

    def __init__(self, sampler: TransformersSampler, stop_after: int | None) -> None:
        self.gives_logprobs = True
        self._sampler = sampler
        self._left = stop_after

    def sample(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int,
        on_progress: Progress | None = None,
        on_prompt: OnPrompt | None = None,
    ) -> list[Candidate]:
        if self._left == 0:
            raise KeyboardInterrupt
        self._left = None if self._left is None else self._left - 1
        return self._sampler.sample(prompts, n=n, on_progress=on_progress, on_prompt=on_prompt)


def totals(drawn: Sequence[Candidate]) -> dict[CandidateKey, float]:
    """Return the right score of every candidate."""
    return {
        (each.prompt_id, each.sample_index): sum(map(float, each.text.split())) for each in drawn
    }


def shard_times(directory: str) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path(directory).glob("*/*-of-*.parquet")}


def assert_same_candidates(ours: Sequence[Candidate], theirs: Sequence[Candidate]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert (one.prompt_id, one.sample_index) == (other.prompt_id, other.sample_index)
        assert one.token_ids == other.token_ids
        assert one.prompt_token_ids == other.prompt_token_ids
        assert (one.text, one.finish_reason) == (other.text, other.finish_reason)
        assert one.logprob == pytest.approx(other.logprob, abs=1e-5)


@pytest.fixture(autouse=True)
def _five_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "PROMPTS_PER_SHARD", 8)


@pytest.fixture(scope="module")
def cluster() -> Generator[None]:
    """Start one small cluster for all tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            "local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=100 * 2**20,
            log_to_driver=False,
        )
        yield
        ray.shutdown()


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_loses_nothing_and_repeats_nothing(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "deadly.py").write_text(DEADLY)
    place = Place(recipe, "deadly:total")
    with pytest.raises(KeyboardInterrupt):
        place.draw_in_one_process("run", stop_after=1)
    before = shard_times("run")

    place.draw_on_ray(RayEngine(num_workers=2))

    run_directory = place.run_directory()
    killed = (tmp_path / "killed").read_text()
    workers = [path.name for path in (tmp_path / "inside").iterdir()]
    assert killed in workers
    assert len(workers) == 3  # two, and the one that took the killed one's place
    assert "A worker died at shard" in place.said.getvalue()
    assert is_drawn(run_directory, place.plan, open_set(run_directory, place.plan))
    assert len(shard_times("run")) == 5
    assert shard_times("run").items() >= before.items()
    place.draw_in_one_process("plain")
    drawn = run_directory.store.read("train")
    assert_same_candidates(drawn, place.run_directory("plain").store.read("train"))
    assert not tries_directory(run_directory.path).exists()
    manifest = run_directory.store.read_manifest("train") or {}
    worker = manifest["engine"].pop("worker")
    assert manifest["engine"] == {"name": "ray", "num_workers": 2}
    assert (worker["name"], worker["device"]) == ("transformers", "cpu")

    # The first shard was drawn without Ray and has no scores; those of the others are there.
    known = run_directory.store.read_scores("train", "total") or {}
    first = {(prompt.id, index) for prompt in place.prompts[:8] for index in range(NUM_SAMPLES)}
    assert known == {key: value for key, value in totals(drawn).items() if key not in first}
    place.score()
    assert run_directory.store.read_scores("train", "total") == totals(drawn)


def interrupt_driver(tmp_path: Path, warm: WarmPython) -> None:
    """Let another process draw on the cluster, and interrupt it within the third shard."""
    address = ray.get_runtime_context().gcs_address
    counted = 2 * 8 * NUM_SAMPLES
    with warm.started("-c", DRIVER, address) as driver:
        wait_for((tmp_path / "calls" / "3").exists, driver)
        wait_for(lambda: recorded_counts(Path("run"), "score-train").get("work") == counted, driver)
        driver.send_signal(signal.SIGINT)
        _, told = driver.communicate(timeout=PATIENCE)
    assert driver.returncode == -signal.SIGINT
    assert told.splitlines()[-1] == "KeyboardInterrupt"
    # The worker, which would have waited forever, went with its driver.
    wait_for(lambda: ray.available_resources().get("CPU") == 2)


@pytest.mark.usefixtures("cluster")
def test_what_is_done_when_a_job_is_interrupted_or_fails_stays_done(
    recipe: Recipe, warm: WarmPython, tmp_path: Path
) -> None:
    (tmp_path / "troubled.py").write_text(TROUBLED)
    place = Place(recipe, "troubled:total")
    (tmp_path / "driver.yaml").write_text(dump_recipe(place.recipe))
    interrupt_driver(tmp_path, warm)
    store = place.run_directory().store
    before, known = shard_times("run"), store.read_scores("train", "total") or {}
    assert len(before) == 3  # the third is drawn, but has no scores
    assert len(known) == 2 * 8 * NUM_SAMPLES

    with pytest.raises(RewardError, match="ZeroDivisionError: nothing to divide by") as refused:
        place.draw_on_ray(RayEngine(num_workers=1))

    assert "\n" not in str(refused.value)
    assert shard_times("run").items() >= before.items()
    place.draw_in_one_process("plain")
    drawn = store.read("train")
    assert_same_candidates(drawn, place.run_directory("plain").store.read("train"))
    later = store.read_scores("train", "total") or {}
    assert later.items() >= known.items()
    assert len(later) == 3 * 8 * NUM_SAMPLES
    place.score()
    assert store.read_scores("train", "total") == totals(drawn)
    # Of the two shards without scores, and of nothing else.
    assert recorded_counts(Path("run"), "score-train")["work"] == len(drawn)


@pytest.mark.usefixtures("cluster")
def test_a_drawn_set_needs_no_worker(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "unused.py").write_text("def total(prompts, completions): ...")
    place = Place(recipe, "unused:total")
    place.draw_in_one_process("run")
    before = shard_times("run")
    place.draw_on_ray(RayEngine(num_workers=1), with_scores=False)

    assert shard_times("run") == before
    assert place.run_directory().store.read_scores("train", "total") is None


@pytest.mark.usefixtures("cluster")
def test_workers_for_which_there_is_no_room_are_announced() -> None:
    said = io.StringIO()
    with ray_cluster(RayEngine(num_workers=3), Console(file=said, width=500)):
        assert "fits 2 of 3 workers of 1 CPUs and 0 GPUs each" in said.getvalue()
    assert ray.is_initialized()  # the cluster was not ours to end


CONNECTIONS = """
import signal
import ray
from bonbon.errors import BonbonError
from bonbon.pipeline.ray.cluster import ray_cluster
from bonbon.pipeline.ray.job import RayEngine
from bonbon.console import Console

for engine in (
    RayEngine(address="127.0.0.1:1"),
    RayEngine(address="local", gpus_per_worker=99),
):
    try:
        with ray_cluster(engine, Console()):
            raise AssertionError
    except BonbonError as error:
        print(error)
print(ray.is_initialized())

def stop(number, frame):
    raise KeyboardInterrupt(signal.Signals(number).name)

def interrupted_init(*arguments, **options):
    signal.raise_signal(signal.SIGTERM)
    init(*arguments, **options)
    print("started", ray.is_initialized())

signal.signal(signal.SIGTERM, stop)
init, ray.init = ray.init, interrupted_init
try:
    with ray_cluster(RayEngine(address="local"), Console()):
        raise AssertionError
except KeyboardInterrupt as error:
    print(error, ray.is_initialized(), signal.getsignal(signal.SIGTERM) is stop)
"""


def test_a_cluster_of_our_own_is_quiet_and_ends() -> None:
    """Its start is not interrupted halfway; what interrupts is heard as soon as it is there."""
    done = finished([sys.executable, "-c", CONNECTIONS])
    nobody, no_room, connected, started, stopped = done.stdout.splitlines()

    assert nobody.startswith("no Ray cluster answers at 127.0.0.1:1; start one")
    assert "a worker takes 1 CPUs and 99 GPUs, but this machine has" in no_room
    assert connected == "False"
    assert (started, stopped) == ("started True", "SIGTERM False True")
    assert (done.returncode, done.stderr) == (0, "")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray.data", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'bonbon-align\[ray\]'"):
        require_ray()
