import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bonbon.data.store import CandidateStore
from bonbon.records import ScoredGroup
from bonbon.report.samples import browser_data, json_for_script
from bonbon.selection.ranks import rank_order, tie_rng


@pytest.fixture
def groups(run_directory: Path) -> dict[str, list[ScoredGroup]]:
    store = CandidateStore(run_directory)
    return {name: store.groups(name, "vader") for name in ("train", "eval-base", "eval-bonbon")}


def test_training_prompts_list_their_draws_in_the_order_that_training_ranks_them(
    groups: dict[str, list[ScoredGroup]],
) -> None:
    entries = browser_data(groups["train"], {}, seed=5)["prompts"]
    assert len(entries) == len(groups["train"])
    for entry, group in zip(entries, groups["train"], strict=True):
        order = rank_order(group.rewards, rng=tie_rng(5, group.prompt_id))
        ranked = [group.candidates[index] for index in reversed(order)]
        (side,) = entry["sides"]
        assert [row[1:4] for row in side["rows"]] == [
            (c.text, len(c.token_ids), int(c.finish_reason == "length")) for c in ranked
        ]
        rewards = [row[0] for row in side["rows"]]
        assert rewards == sorted(rewards, reverse=True)
        assert entry["gap"] == pytest.approx(rewards[0] - rewards[-1], abs=2e-4)
        assert entry["split"] == "train"


def test_held_out_prompts_show_both_models(groups: dict[str, list[ScoredGroup]]) -> None:
    held_out = {"base": groups["eval-base"], "bonbon": groups["eval-bonbon"]}
    data = browser_data([], held_out, seed=0)
    for entry, base, trained in zip(data["prompts"], *held_out.values(), strict=True):
        assert [side["name"] for side in entry["sides"]] == ["base", "bonbon"]
        assert entry["gap"] == pytest.approx(
            np.mean(trained.rewards) - np.mean(base.rewards), abs=1e-3
        )
        assert entry["spread"] == pytest.approx(np.std(base.rewards), abs=1e-3)
    rewards = [r for side in held_out.values() for group in side for r in group.rewards]
    assert data["range"] == pytest.approx([min(rewards), max(rewards)], abs=1e-3)


def test_gap_and_spread_are_of_all_answers_though_few_are_shown(
    groups: dict[str, list[ScoredGroup]],
) -> None:
    held_out = {"base": groups["eval-base"], "bonbon": groups["eval-bonbon"]}
    entries, few = (
        browser_data([], held_out, seed=0, most_shown=most)["prompts"] for most in (None, 2)
    )
    for entry, shown, base in zip(entries, few, groups["eval-base"], strict=True):
        assert (shown["gap"], shown["spread"]) == (entry["gap"], entry["spread"])
        texts = {row[1] for row in shown["sides"][0]["rows"]}
        assert texts == {candidate.text for candidate in base.candidates[:2]}


def test_a_tied_group_is_called_so(groups: dict[str, list[ScoredGroup]]) -> None:
    tied = replace(groups["train"][0], rewards=(0.0,) * 8)
    entries = browser_data([tied, groups["train"][1]], {}, seed=0)["prompts"]
    assert [entry["tied"] for entry in entries] == [True, False]


def test_a_large_run_is_thinned_evenly_and_says_how_many_there_are(
    groups: dict[str, list[ScoredGroup]],
) -> None:
    train = groups["train"]
    size = sum(len(c.text) for group in train for c in group.candidates)
    data = browser_data(train, {}, seed=0, max_characters=size // 4 + 1)
    shown = [entry["id"] for entry in data["prompts"]]
    assert shown == [train[index].prompt_id for index in (0, 4, 8)]
    assert data["total"] == len(train)


def test_a_run_without_candidates_has_nothing_to_browse() -> None:
    assert browser_data([], {}, seed=0) == {"prompts": [], "total": 0, "range": (0.0, 0.0)}


@pytest.mark.parametrize("text", ["</script><b>", "<!--<script>", "a & b", "\u2028\u2029", "é😀\\"])
def test_no_text_can_end_the_script_it_is_carried_in(text: str) -> None:
    carried = json_for_script({"text": text})
    assert not set("<>&\u2028\u2029") & set(carried)
    assert json.loads(carried) == {"text": text}
