"""Malformed input of every kind: never a traceback, never a hang, and one short line if refused.

The cases are drawn by a seed. What is accepted is carried out, on a toy that takes no time.
"""

import json
import random
import shutil
import signal
import traceback
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

Command = Callable[..., Any]

SECONDS = 60
"""For one case: far more than any takes, on a machine that does much else."""

SMALL = ("prompts.num_train=2", "prompts.num_eval=2", "sampling.max_new_tokens=2", "sampling.n=2")

NESTED = "[" * 3000 + "]" * 3000
SCALARS = (
    *("true", "false", "null", "~", "", "''", "' '", "on", "no", "0", "-1", "1", "1.5", "1e-4"),
    *("1e9", "1e400", "-0.0", ".inf", "-.inf", ".nan", "1_000", "0x10", "010", "1:30"),
    *("2024-01-01",),
    *("9" * 400, "9" * 5000, "'2'", "abc", "é中\u202e", "'a\tb'", '"\\0"', '"\\ud800"', "x" * 5000),
    *("[]", "{}", "[1, 2]", "[[]]", "{a: 1}", "{a: {b: {c: 1}}}", "[null]", "{1: 2}", "{~: 1}"),
    *("&a [*a]", "&a {b: *a}", "*a", "!!int x", "!!python/name:os.system", "!!binary aGk="),
    *("!!set {a}",),
    *("'../..'", "/", "/dev/null", "/dev/stdin", "~nobody-at-all/x", "'a\\0b'", "n" * 300),
    *("a:b", "a.b:c.d", "os:getcwd", "digits:nothing", ":", "digits:", "sys:exit", "builtins:exit"),
    NESTED,
)
KEYS = (
    *("name", "seed", "policy", "prompts", "sampling", "reward", "tilt", "training", "rounds"),
    *("evaluation", "policy.model", "policy.dtype", "policy.device", "policy.chat_template"),
    *("policy.num_threads", "policy.revision", "prompts.path", "prompts.prompt_column"),
    *("prompts.system", "prompts.eval_fraction", "prompts.num_train", "prompts.seed", "sampling.n"),
    *("sampling.temperature", "sampling.max_new_tokens", "sampling.stop", "sampling.top_k"),
    *("sampling.top_p", "sampling.logprobs", "sampling.engine", "sampling.engine.rows"),
    *("sampling.engine.kind", "training.objective", "training.alpha", "training.beta"),
    *("training.ranks", "training.lora", "training.lora.r", "training.preferences"),
    *("training.learning_rate", "training.epochs", "training.weight_decay", "training.report_to"),
    *("rounds.count", "rounds.kind", "evaluation.base_samples", "evaluation.num_resamples"),
    *("reward.kind", "reward.parts", "compare", "nonsense", "policy.nonsense", "", ".", "a..b"),
    *("é",),
)
TILTS = (
    *("best-of-0", "best-of--1", "best-of-1e999", "best-of-1e12", "worst-of-0", "optimal(kl=0)"),
    *("optimal(kl=-1)", "optimal(c=0)", "optimal(win_rate=1)", "optimal(win_rate=0.5)"),
    *("top-fraction(0)", "top-fraction(2)", "best-of-poisson(-1)", "best-of-", "optimal()"),
    *("x" * 999,),
)
ROWS: tuple[str, ...] = (
    *('{"prompt": "1"}', '{"prompt": ""}', '{"prompt": null}', '{"prompt": 1}', '{"prompt": true}'),
    *('{"prompt": ["1"]}', '{"prompt": {"a": 1}}', '{"prompt": [{"role": "user"}]}', "{}", "[]"),
    *("1",),
    *('{"prompt": [{"role": "user", "content": 1}]}', '{"prompt": [{"role": 1, "content": "a"}]}'),
    *('{"prompt": "1", "prompt": "2"}', '{"prompt": "1", "id": 1e400}'),
    *('{"prompt": "1", "id": {}}',),
    *('{"prompt": "1", "id": ' + "9" * 5000 + "}", '{"prompt": "1", "split": "x"}'),
    *('{"prompt": "1"',),
    *('{"prompt": "\\ud800"}', '{"prompt": "\\u0000"}', '{"prompt": NaN}'),
    *('{"prompt": ' + NESTED + "}",),
    *('{"messages": []}', '{"messages": "[1"}', '{"text": "1"}', "null", '"1"', "prompt"),
    *('{"": ""}',),
    *('{"prompt": "1", "chosen": "2"}', '{"prompt": "1", "chosen": 1, "rejected": 2}'),
    *('{"prompt": "1", "chosen": "", "rejected": ""}',),
    *('{"prompt": "1", "chosen": [], "rejected": []}',),
    *('{"prompt": "1", "chosen": "2", "rejected": "3"}', '{"text": "1", "label": "x"}'),
    *('{"text": "1", "label": NaN}', '{"text": "1", "label": 1e999}', '{"text": "", "label": 1}'),
)
GOOD = [f'{{"prompt": "{n}", "chosen": "1 2", "rejected": "3"}}' for n in range(1, 6)]
RAW = (
    *(b"", b"\n", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"PAR1", b"PAR1" * 10, b"\x1f\x8b\x08"),
    *(b"[", b"]"),
    *(b"{", b"prompt", b"prompt\n", b"prompt,prompt\n1,2\n", b'prompt\n"1\n', b"prompt,id\n1\n"),
    *(b"a,b\n1,2",),
    *(b"prompt\n" + b"1" * 200_000, b"[" * 100_000, b'[{"prompt": "1"}, 2]'),
    *(b'{"prompt": ["1", "2"]}',),
    *("prompt\né".encode("latin-1"), "prompt\n1\n".encode("utf-16"), b"\r\r\r", b'"\n' * 99),
    *(b",,,\n,,\n",),
)
TABLES = (
    pa.table({}),
    pa.table({"prompt": pa.array([], pa.string())}),
    pa.table({"prompt": [None, None]}),
    pa.table({"prompt": [1.5, float("nan")]}),
    pa.table({"prompt": [b"\xff", b"1"]}),
    pa.table({"prompt": [{"a": 1}, {"a": 2}]}),
    pa.table({"prompt": [[1], []]}),
    pa.table([["1"], ["2"]], names=["prompt", "prompt"]),
    pa.table({"text": ["1"], "label": [10**18]}),
)
FIT = ("reward", "fit", "prompts.jsonl", "--out")
SAMPLE = ("sample", "recipe.yaml", "--out")
COMMANDS: tuple[Sequence[str], ...] = (
    *(["run"], ["runn"], ["run", "a", "b"], ["run", "--ouch", "a"], ["--ouch"], ["run", "--set"]),
    *(["theory", "--n", value] for value in ("0", "-1", "nan", "inf", "1e999", "x", "", "1e300")),
    *(["theory", "--kl", value] for value in ("0", "-1", "nan", "1e9", "600")),
    *(["theory", "--win-rate", value] for value in ("0.5", "1", "0", "nan", "0.9999999999999999")),
    *(
        ["theory", "--figure", name]
        for name in ("x.gif", "no/x.svg", "x" * 300 + ".svg", "/dev.svg")
    ),
    *(["theory", "--n", "2", "--kl", "1"], ["export"], ["export", "run"], ["report"]),
    *(["report", ""],),
    *(["report", "x" * 300], ["report", "recipe.yaml"], ["export", "recipe.yaml", "a.jsonl"]),
    *(["best"], ["best", ""], ["best", " "], ["best", "hi", "--n", "0"]),
    *(["best", "hi", "--n", "x"],),
    *(["best", "hi", "--seed", "-1"], ["best", "hi", "--temperature", "nan"]),
    *(["best", "hi", "--n", "1e9"],),
    *(["best", "hi", "--method", "x"], ["best", "hi", "--method", "soft", "--parameter", "nan"]),
    *(["best", "hi", "--method", "majority", "--answer", "("], ["best", "hi", "--reject", "2"]),
    *(["best", "hi", "--policy", ""], ["best", "hi", "--policy", "\udcff"], ["best", "\udcff"]),
    *(["compare", "recipe.yaml"], ["compare", "recipe.yaml", "--seeds", "0"], ["compare", "/"]),
    *(
        ["score", "recipe.yaml", "--also", also]
        for also in ("", "[", "{kind: x}", "a.yaml", "1", "~")
    ),
    *(["reward"], ["reward", "fit"], ["reward", "fit", "no.jsonl", "--out", "w"]),
    *(["reward", "unfit"],),
    *(
        ["reward", "fit", "prompts.jsonl", "--out", "w", "--holdout", value]
        for value in ("0", "1", "nan")
    ),
    *(
        ["reward", "fit", "prompts.jsonl", "--out", "w", "--seed", value]
        for value in ("-1", str(2**32))
    ),
    *(["reward", "fit", "prompts.jsonl", "--out", "recipe.yaml"],),
    *(["sample", "recipe.yaml", "--out", ""],),
    *(
        ["sample", "recipe.yaml", "--out", name]
        for name in ("x" * 300, "recipe.yaml/x", "/proc/x", "/dev/null")
    ),
)


@contextmanager
def limited() -> Generator[None]:
    def too_long(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"{SECONDS} s are over")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fault(bonbon: Command, arguments: Sequence[str]) -> str | None:
    """Return what is wrong with how the command took its input, None if nothing is."""
    try:
        with limited():
            outcome = bonbon(*arguments)
    except Exception:  # what a person would see as a traceback
        return traceback.format_exc()[-700:]
    if outcome.code not in {0, 2}:
        return f"ended with {outcome.code}: {outcome.err[:300]}"
    if len(outcome.err) > 1000:
        return f"{len(outcome.err)} characters: {outcome.err[:300]}"
    one_line = outcome.err.startswith("bonbon: ") and outcome.err.count("\n") == 1
    shown_help = not outcome.err and "Usage: " in outcome.out
    if outcome.code == 2 and not one_line and not shown_help:
        return f"not one line: {outcome.err[:300]!r}"
    return None


def faults(bonbon: Command, cases: Iterable[Sequence[str]]) -> list[str]:
    """Return the faults of all cases, each with its command."""
    shutil.rmtree("run", ignore_errors=True)
    found: list[str] = []
    for arguments in cases:
        wrong = fault(bonbon, arguments)
        if wrong is not None:
            found.append(f"{[part[:120] for part in arguments]}\n{wrong}")
        shutil.rmtree("run", ignore_errors=True)
    return found


def settings(*overrides: str) -> list[str]:
    return [part for override in (*SMALL, *overrides) for part in ("--set", override)]


def test_settings(bonbon: Command) -> None:
    rng = random.Random(1)
    pairs = [(rng.choice(KEYS), rng.choice(SCALARS)) for _ in range(110)]
    pairs += [("tilt", repr(tilt)) for tilt in TILTS]
    cases = [[*SAMPLE, "run", *settings(f"{key}={value}")] for key, value in pairs]

    assert faults(bonbon, cases) == []


def test_recipes(bonbon: Command, tmp_path: Path) -> None:
    rng = random.Random(2)
    base = (tmp_path / "recipe.yaml").read_text()
    texts = [f"{base}{rng.choice(KEYS[:10])}: {rng.choice(SCALARS)}\n" for _ in range(15)]
    for _ in range(25):  # a line is left out, or something is put into it
        lines = base.splitlines()
        place = rng.randrange(len(lines))
        line, cut = lines[place], rng.randrange(len(lines[place]))
        lines[place] = line[:cut] + rng.choice(
            ["", ":", "{", "}", "\t", '"', "- ", "&a ", "*a", "\x01"]
        )
        texts.append("\n".join([*lines[:place], lines[place], *lines[place + 1 :]]))
    texts += [*SCALARS, "a: &a [1]\n" + "".join(f"k{i}: [{'*a, ' * 99}*a]\n" for i in range(99))]
    cases: list[Sequence[str]] = []
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
        cases.append(["sample", f"{number}.yaml", "--out", "run", *settings()])

    assert faults(bonbon, cases) == []


def files(place: Path, rng: random.Random) -> list[str]:
    """Write malformed files of every format, and return their names."""
    for number, row in enumerate(ROWS):
        rows = [row, rng.choice(ROWS)] if number % 4 == 3 else [row, *GOOD]
        (place / f"row{number}.jsonl").write_text("\n".join(rows), encoding="utf-8")
        (place / f"row{number}.json").write_text(f"[{', '.join(rows)}]", encoding="utf-8")
    for number, content in enumerate(RAW):
        ending = ("jsonl", "json", "csv", "parquet", "txt")[number % 5]
        (place / f"raw{number}.{ending}").write_bytes(content)
        (place / f"raw{number}.csv").write_bytes(content)
    for number, table in enumerate(TABLES):
        pq.write_table(table, place / f"table{number}.parquet")
    whole = (place / "table8.parquet").read_bytes()
    (place / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    (place / "folder.jsonl").mkdir()
    (place / "loop.jsonl").symlink_to("loop.jsonl")
    names = [path.name for path in place.iterdir() if path.suffix != ".py"]
    return [name for name in sorted(names) if name != "recipe.yaml"]


def test_prompt_files(bonbon: Command, tmp_path: Path) -> None:
    names = [*files(tmp_path, random.Random(3)), "nothing.jsonl", "x" * 300 + ".csv", "/dev/null"]
    cases = [[*SAMPLE, "run", *settings(f"prompts.path={name}")] for name in names]

    assert faults(bonbon, cases) == []


def test_preferences_and_labelled_texts(bonbon: Command, tmp_path: Path) -> None:
    rng = random.Random(4)
    names = rng.sample(files(tmp_path, rng), 40)
    dpo = ("training.objective=dpo", "training.epochs=0.01")
    cases = [["reward", "fit", name, "--out", "run"] for name in names]
    cases += [
        ["train", "recipe.yaml", "--out", "run", *settings(*dpo, f"training.preferences={name}")]
        for name in names[:20]
    ]

    assert faults(bonbon, cases) == []


@pytest.mark.usefixtures("no_proxies")
def test_servers_and_judges(bonbon: Command) -> None:
    rng = random.Random(5)
    keys = ("base_url", "model", "api", "api_key_env", "concurrency", "max_retries", "timeout_s")
    judged = ("template", "scale", "mode", "comparisons", "max_tokens", "temperature", "name")
    url = "'http://127.0.0.1:9/v1'"
    cases: list[Sequence[str]] = []
    for _ in range(30):
        given = {"base_url": url, "model": "m", "max_retries": "0", "timeout_s": "5"}
        kind = rng.choice(["openai", "judge"])
        given[rng.choice(keys if kind == "openai" else (*keys, *judged))] = rng.choice(SCALARS[:50])
        inner = ", ".join(f"{key}: {value}" for key, value in given.items())
        where = "sampling.engine" if kind == "openai" else "reward"
        verb = "sample" if kind == "openai" else "run"
        cases.append(
            [
                "sample",
                "recipe.yaml",
                "--out",
                "run",
                *settings(f"{where}={{kind: {kind}, {inner}}}"),
            ]
        )
        cases[-1] = [verb, *cases[-1][1:]]

    assert faults(bonbon, cases) == []


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask this machine's port itself."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_arguments(bonbon: Command) -> None:
    assert faults(bonbon, COMMANDS) == []


def damaged(path: Path, rng: random.Random) -> str:
    """Damage a file of a run directory in one of many ways, and return which."""
    way = rng.choice(["gone", "empty", "cut", "noise", "shape", "folder", "null", "deep"])
    content = path.read_bytes()
    path.unlink()
    match way:
        case "empty":
            path.touch()
        case "cut":
            path.write_bytes(content[: len(content) // 2])
        case "noise":
            path.write_bytes(rng.randbytes(200))
        case "shape":
            path.write_text(rng.choice(["[]", "{}", "1", '"a"', '{"a": 1}\n', "[[1]]\n[2]\n"]))
        case "folder":
            path.mkdir()
        case "null":
            path.write_text("null\n")
        case "deep":
            path.write_text(NESTED)
        case _:
            pass
    return way


def test_run_directories(bonbon: Command, tmp_path: Path) -> None:
    small = settings("training.epochs=1", "prompts.num_train=4")
    assert bonbon("run", "recipe.yaml", "--out", "whole", *small).code == 0
    names = sorted(
        str(path.relative_to("whole"))
        for path in Path("whole").rglob("*")
        if path.is_file() and not path.name.startswith(".") and path.suffix != ".pdf"
    )
    verbs = (
        ["report", "run"],
        ["export", "run", "out.jsonl"],
        ["export", "run", "out.csv", "--format", "candidates", "--of", "eval-base"],
        ["score", "recipe.yaml", "--out", "run", *small],
        [*SAMPLE, "run", *small],
    )
    found: list[str] = []
    for name in names:
        rng = random.Random(name)  # the same damage on every machine, whatever else a run writes
        for verb in rng.sample(verbs, 1):
            shutil.rmtree("run", ignore_errors=True)
            shutil.copytree("whole", "run")
            way = damaged(Path("run") / name, rng)
            wrong = fault(bonbon, verb)
            if wrong is not None:
                found.append(f"{name} {way} {json.dumps(verb)}\n{wrong}")

    assert found == []
