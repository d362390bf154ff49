"""Settings: strict types, bounds, paths at home, and no secret in any of them or in a refusal."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from pydantic import ValidationError

from bonbon.base_config import looks_secret, without_secrets
from bonbon.errors import ConfigError
from bonbon.recipe import make_recipe
from bonbon.rewards.judge.config import JudgeConfig
from bonbon.rewards.tfidf import TfidfConfig


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as refused:
        make_recipe({}, overrides)
    line = str(refused.value)
    assert "\n" not in line
    assert len(line) < 500
    return line


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("sampling.n=true", "sampling.n: got True; expected a whole number"),
        ("sampling.n='2'", "sampling.n: got '2'; expected a whole number"),
        ("sampling.n=8.5", "sampling.n: got 8.5; expected a whole number"),
        ("sampling.temperature=true", "sampling.temperature: got True; expected a number"),
        ("sampling.temperature='1'", "sampling.temperature: got '1'; expected a number"),
        ("sampling.temperature=1:30", "sampling.temperature: got '1:30'; expected a number"),
        ("training.learning_rate=.nan", "training.learning_rate: got nan; input should be a"),
        ("training.merge=on", "unknown key 'training.merge'"),
        ("training.gradient_checkpointing=on", "got 'on'; expected true or false"),
        ("training.gradient_checkpointing=1", "got 1; expected true or false"),
        ("sampling.stop=['']", "sampling.stop.0: got ''; string should have at least 1"),
        ("sampling.stop=[2024-01-01, 1]", "sampling.stop.1: got 1; expected text; put it in"),
        ("name=2024", "name: got 2024; expected text; put it in quotes"),
        ("prompts.path=3", "prompts.path: got 3; expected a path"),
        ("prompts.path=~nobody-at-all/x", "no home directory of that user"),
        ("sampling.engine={kind: openai, timeout_s: true}", "engine.timeout_s: got True; expected"),
        ("reward={kind: judge, model: m, scale: true}", "reward.scale: got True; expected a whole"),
        ("reward={kind: sum, parts: [{reward: vader, weight: true}]}", "parts.0.weight: got True"),
        ("reward={kind: classifier, model: m, heads: {0: true}}", "reward.heads.0: got True"),
        ("training.ranks=[true, 2]", "training.ranks.0: got True; expected a whole number"),
        ("training.lora={target_modules: [1]}", "training.lora.target_modules: got [1]; expected"),
        ("seed=-1", "seed: got -1; input should be greater than or equal to 0"),
        ("seed=4294967296", "seed: got 4294967296; input should be less than 4294967296"),
        ("training.seed=-1", "training.seed: got -1"),
        ("prompts.seed=-1", "prompts.seed: got -1"),
        ("sampling.n=1000000000", "input should be less than or equal to 1000000"),
        ("sampling.max_new_tokens=1e12", "sampling.max_new_tokens: got 1000000000000"),
        ("training.weight_decay=1e9", "training.weight_decay: got 1000000000"),
        ("training.learning_rate=1e9", "training.learning_rate: got 1000000000"),
        ("training.epochs=1e9", "training.epochs: got 1000000000"),
        ("rounds.count=100000", "rounds.count: got 100000"),
        ("evaluation.num_resamples=1e9", "evaluation.num_resamples: got 1000000000"),
        ("sampling.engine={rows: 1e9}", "sampling.engine.rows: got 1000000000"),
        ("sampling.engine={kind: openai, concurrency: 1e9}", "engine.concurrency: got 1000000000"),
        ("policy.num_threads=100000", "policy.num_threads: got 100000"),
    ],
)
def test_a_value_of_another_kind_or_beyond_all_use_is_refused(override: str, line: str) -> None:
    assert line in refusal(override)


def test_numbers_are_taken_as_they_are_written() -> None:
    recipe = make_recipe(
        {},
        [
            "training.learning_rate=1e-4",
            "training.weight_decay=0",
            "sampling.max_new_tokens=1e3",
            "sampling.temperature=1",
            "seed=4294967295",
        ],
    )

    assert recipe.training.learning_rate == 1e-4
    assert recipe.training.weight_decay == 0.0
    assert recipe.sampling.max_new_tokens == 1000
    assert recipe.seed == 2**32 - 1


def test_paths_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    recipe = make_recipe(
        {"prompts": {"path": "~/p.jsonl"}, "reward": {"kind": "tfidf", "path": "~/w"}},
        ["training.objective=dpo", "training.preferences=~/pairs.jsonl"],
    )

    assert recipe.prompts.path == Path("/somewhere/p.jsonl")
    assert recipe.training.preferences == Path("/somewhere/pairs.jsonl")
    assert recipe.reward == TfidfConfig(path=Path("/somewhere/w"))


KEY = "sk-proj-0123456789abcdef"
ENGINE, JUDGE = "sampling.engine={kind: openai, ", "reward={kind: judge, model: m, "


@pytest.mark.parametrize("where", [ENGINE, JUDGE])
@pytest.mark.parametrize(
    "setting",
    [
        f"base_url: 'https://me:{KEY}@host/v1'",
        "base_url: 'https://hunter2:x@host/v1'",
        "base_url: 'https://host/v1?api_key=hunter2'",
        "base_url: 'https://host/v1#hunter2'",
        f"base_url: 'https://host/{KEY}/v1'",
        "base_url: 'https://host:hunter2/v1'",
        "base_url: 'me:hunter2@host'",
        f"base_url: {KEY}",
        f"base_url: [{KEY}]",
        f"api_key_env: {KEY}",
        "api_key_env: hf_hunter2ABCDEFGHIJKLMNOP",
        "api_key_env: hunter2hunter2hunter2hunter2",
        f"api_key_env: {'HUNTER' * 20}",
        "api_key_env: 'hunter2 '",
        f"api_key: {KEY}",
        f"{KEY}: 1",
        f"timeout_s: {KEY}",
    ],
)
def test_a_secret_is_refused_and_not_repeated(where: str, setting: str) -> None:
    line = refusal(f"{where}{setting}}}").lower()

    assert "hunter" not in line
    assert KEY not in line


def test_pydantic_does_not_repeat_it_either() -> None:
    with pytest.raises(ValidationError) as refused:
        JudgeConfig(model="m", api_key_env=KEY)
    assert KEY not in str(refused.value)


def test_an_override_that_goes_nowhere_does_not_repeat_a_secret() -> None:
    for override in (f"reward.api_key_env={KEY}", f"reward={KEY}: [", f"{KEY}"):
        with pytest.raises(ConfigError) as refused:
            make_recipe({"reward": "a:b"}, [override])
        assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:8000/v1",
        "https://api.openai.com/v1",
        "http://[::1]:8000/v1",
        "https://gateway.ai.cloudflare.com/v1/0123456789abcdef0123456789abcdef/name/openai",
    ],
)
def test_an_address_is_taken(url: str) -> None:
    assert JudgeConfig(model="m", base_url=url).base_url == url


@pytest.mark.parametrize(
    "url", ["localhost:8000", "", "http://", "http://h:99999/v1", "http://h:x/v1", "http://a b"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    assert "expected one such as http://localhost:8000/v1" in refusal(
        f"sampling.engine={{kind: openai, base_url: '{url}'}}"
    )


@pytest.mark.parametrize("name", ["OPENAI_API_KEY", "key", "_K2", "MY_PROVIDER_2_KEY_FOR_TESTS"])
def test_a_variable_is_taken(name: str) -> None:
    assert JudgeConfig(model="m", api_key_env=name).api_key_env == name


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (f"the key {KEY} is refused", "the key … is refused"),
        ("https://u:p@host/v1", "https://…@host/v1"),
        ("https://h/v1?a=1&api_key=xyz", "https://h/v1?a=1&api_key=…"),
        ("hf-internal-testing/tiny-random-gpt2", "hf-internal-testing/tiny-random-gpt2"),
        ("task-specific", "task-specific"),
    ],
)
def test_secrets_are_told_by_their_looks(said: str, shown: str) -> None:
    assert without_secrets(said) == shown
    assert looks_secret(said) == (said != shown)


def names_in(line: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if name in line]


def test_a_wrong_kind_shows_its_name_alone() -> None:
    line = refusal(f"sampling.engine={{kind: opnai, api_key: {KEY}}}")

    assert "got engine 'opnai', expected one of transformers" in line
    assert "did you mean 'openai'?" in line
    assert names_in(line, ["api_key", KEY]) == []
