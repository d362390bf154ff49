"""The tokens that end a turn: from the template, the tokenizer and the configs."""

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from tests.checkpoints import (
    CHATML,
    ENDOFTEXT,
    IM_END,
    IM_START,
    PAD,
    build,
    edit_json,
    tokenizer,
)

from bonbon.data.labelled_texts import PreferencePair
from bonbon.data.preferences import preference_groups
from bonbon.models.chat_template import template_end
from bonbon.models.policy import PolicyConfig, load_policy_tokenizer
from bonbon.records import Prompt

Checkpoint = Callable[[str], Path]

NOW = datetime(2026, 1, 2, 3, 4, 5)
WITH_BLANKS = CHATML.replace("<|im_end|>\n", "\n <|im_end|>\n")
IN_GENERATION_TAGS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<|im_end|>{% endgeneration %}{% else %}{{ m['content'] }}"
    "<|im_end|>{% endif %}\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and "
    "loop.last %}<think>\n\n</think>\n\n{% endif %}{{ m['content'].split('</think>')[-1] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n"
    "{% endif %}"
)
ENDED_BY_THE_NEXT_TURN = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{% if not loop.first %}<|im_end|>"
    "{% endif %}<|im_start|>{{ m['content'] }} [/INST]{% else %} {{ m['content'] }}{% endif %}"
    "{% endfor %}"
)
NEXT_TURN_ALONE = CHATML.replace("<|im_end|>", "")
SEPARATED = "{% for m in messages %}{{ m['content'] }}<|endoftext|>{% endfor %}"
ORDINARY_TEXT = (
    "{% for m in messages %}{% if m['role'] == 'user' %}\n\nUser: {% else %}\n\nAssistant: "
    "{% endif %}{{ m['content'] }}{% endfor %}"
)
LOOKS_LIKE_AN_END = ORDINARY_TEXT.replace("{% endfor %}", "</s>{% endfor %}")
ONE_TURN_ONLY = "{% if messages[1] %}{{ raise_exception('one turn') }}{% endif %}" + CHATML


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, IM_END),
        (WITH_BLANKS, IM_END),
        (IN_GENERATION_TAGS, IM_END),
        (THINKING, IM_END),
        (CHATML + "{{ eos_token }}", IM_END),
        (ENDED_BY_THE_NEXT_TURN, IM_END),
        (SEPARATED, ENDOFTEXT),
        (NEXT_TURN_ALONE, None),
        (ORDINARY_TEXT, None),
        (LOOKS_LIKE_AN_END, None),
        (ONE_TURN_ONLY, None),
    ],
)
def test_the_template_tells_its_end_where_it_is_unmistakable(
    template: str, end: int | None
) -> None:
    assert template_end(tokenizer(template=template, eos="<|endoftext|>"), NOW) == end


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("chatml", (IM_END,)),
        ("llama3like", (IM_END, ENDOFTEXT, IM_START)),
        ("eosmismatch", (IM_END, ENDOFTEXT)),
        ("stopspecial", (IM_END, ENDOFTEXT)),
        ("base", (ENDOFTEXT,)),
    ],
)
def test_all_sources_count_and_the_template_leads(
    name: str, ends: tuple[int, ...], checkpoint: Checkpoint
) -> None:
    policy = load_policy_tokenizer(PolicyConfig(model=str(checkpoint(name))))
    assert policy.eos_token_ids == ends
    pair = PreferencePair(Prompt("a", "Hi", "train"), "I love it.", "Bad.")
    (group,) = preference_groups([pair], policy)
    assert [candidate.token_ids[-1] for candidate in group.candidates] == [ends[0]] * 2


def test_without_a_template_the_tokenizer_leads(checkpoint: Checkpoint) -> None:
    config = PolicyConfig(model=str(checkpoint("stopspecial")), chat_template="none")
    assert load_policy_tokenizer(config).eos_token_ids == (ENDOFTEXT,)


def test_sources_that_differ_are_told_in_one_line(
    checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    directory = build("eosmismatch", tmp_path / "told")
    # A process warns once per line, and other tests have warned of the unchanged checkpoint.
    edit_json(directory / "generation_config.json", eos_token_id=[ENDOFTEXT, PAD])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            load_policy_tokenizer(PolicyConfig(model=str(directory)))
        load_policy_tokenizer(PolicyConfig(model=str(checkpoint("chatml"))))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith(
        "ends a turn with <|im_end|>; each of <|im_end|> <|endoftext|> <|pad|> ends a completion. "
        "Its files differ: the chat template <|im_end|>, the tokenizer <|im_end|>, "
        "generation_config.json <|endoftext|> <|pad|>, config.json <|endoftext|>."
    )


def test_a_config_may_carry_its_family_s_default(tmp_path: Path) -> None:
    folder = build("chatml", tmp_path / "default")
    edit_json(folder / "config.json", eos_token_id=77)
    policy = load_policy_tokenizer(PolicyConfig(model=str(folder)))
    assert policy.eos_token_ids == (IM_END,)


def test_an_end_that_a_text_brings_is_kept_once(checkpoint: Checkpoint) -> None:
    policy = load_policy_tokenizer(PolicyConfig(model=str(checkpoint("chatml"))))
    plain = policy.encode_completion("I love it.")
    assert plain[-1] == IM_END
    assert policy.encode_completion("I love it.<|im_end|>") == plain
    assert policy.encode_completion("I love it.<|im_end|>\n") == plain
    assert policy.encode_completion("I love it.", ended=False) == plain[:-1]
    assert policy.decode(plain) == "I love it."


def test_a_prompt_does_not_end_with_what_its_tokenizer_appends(checkpoint: Checkpoint) -> None:
    policy = load_policy_tokenizer(PolicyConfig(model=str(checkpoint("addeos"))))
    text = tuple(policy.tokenizer("Hi there", add_special_tokens=False)["input_ids"])
    assert policy.encode(Prompt("a", "Hi there", "train")) == (IM_START, *text)
    assert policy.encode(Prompt("a", "<|im_start|>Hi there", "train")) == (IM_START, *text)
    assert policy.encode(Prompt("a", "Hi there<|endoftext|>", "train"))[-1] == ENDOFTEXT


def test_a_template_s_beginning_is_not_put_there_twice(checkpoint: Checkpoint) -> None:
    policy = load_policy_tokenizer(PolicyConfig(model=str(checkpoint("dblbos"))))
    assert policy.encode(Prompt("a", "Hi there", "train")).count(ENDOFTEXT) == 1
