"""``uniopd data show``, on each line of the table of published data sets in docs/data.md."""

import re
import shlex
from pathlib import Path

import pytest
from published_rows import PUBLISHED, write_published

from lit_uniopd.cli import main

PAGE = Path(__file__).parents[2] / "docs/data.md"
TABLE = PAGE.read_text().partition("## Published sets")[2]
LINES = dict(re.findall(r"^\| ([^|]+) \| (?:`([^|]*)` )?\|$", TABLE, re.MULTILINE))
ROWS = {
    "PRIME-RL/Eurus-2-RL-Data": "eurus",
    "the same, code alone": "eurus",
    "Uni-OPD's balanced code (G-OPD, Eurus)": "uni_opd_code",
    "Uni-OPD's balanced mathematics (G-OPD, DeepMath)": "uni_opd_math",
    "verl's own sets (GSM8K, MATH, Geometry3k)": "verl",
    "zwhe99/DeepMath-103K": "deepmath",
    "nvidia/OpenMathReasoning": "openmathreasoning",
    "OpenMMReasoner/OpenMMReasoner-RL-74K": "openmmreasoner",
    "HuggingFaceM4/ChartQA": "chartqa",
    "HuggingFaceH4/ultrafeedback_binarized": "ultrafeedback_binarized",
    "openbmb/UltraFeedback": "ultrafeedback",
    "princeton-nlp/llama3-ultrafeedback-armorm": "armorm",
    "Omni-DPO, text": "omni_dpo_text",
    "Omni-DPO, mathematics": "omni_dpo_math",
    "Omni-DPO, multimodal (MM-RLHF)": "omni_dpo_vision",
    "SENTINEL, LLaVA-v1.5": "sentinel_llava_v15",
    "SENTINEL, LLaMA-Factory": "sentinel_llama_factory",
    "SENTINEL, `*_data_pair.jsonl`": "sentinel_data_pair",
    "ms-swift, preferences": "swift",
    "LLaMA-Factory, preferences": "sharegpt",
}


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["data", "show", *arguments])
    assert not stop.value.code, capsys.readouterr().err
    return capsys.readouterr().out


def test_every_format_has_a_line():
    assert [name for name in LINES if name not in ("data set", "---")] == list(ROWS)
    assert set(ROWS.values()) == set(PUBLISHED)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.thinned(4)
def test_the_flags_of_a_published_set_read_its_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str):
    path = write_published(ROWS[name], tmp_path)
    flags = LINES[name].replace("PICTURES", shlex.quote(str(tmp_path / "pictures")))
    flags = re.sub(r"--split \S+ ?", "", flags)  # of the hub
    text = show(capsys, str(path), *shlex.split(flags))
    rows = PUBLISHED[ROWS[name]][1]
    count = sum(map(len, rows.values())) if isinstance(rows, dict) else len(rows)
    kept = 2 if "only_domains" in flags else count
    pairs = isinstance(rows, dict) or not {"chosen", "y_win", "completions", "rejected_response"}.isdisjoint(rows[0])
    assert re.match(rf".*: {kept} rows; {kept} (sentence )?{'pairs' if pairs else 'prompts'}\n", text), text
    if not pairs:
        tried = re.findall(r"gold answers that \w+ can use: (\d+) of (\d+) tried", text)
        assert sum(int(usable) for usable, _ in tried) == sum(int(number) for _, number in tried) == kept, text


@pytest.mark.slow
def test_rows_are_shown_as_the_model_reads_them(tmp_path: Path, capsys, model_dirs):
    path = write_published("eurus", tmp_path)
    arguments = ("--format", "prime", "--data.train.grader", "math", "--rows", "1")
    plain = show(capsys, str(path), *arguments)
    assert "  system: Think aloud, step by step.\n  user: Read n numbers, print their sum.\n" in plain
    assert "domains: code 2; math 1" in plain
    assert "graders: code 2; math 1" in plain
    assert "other columns: data_source, reward_model, extra_info" in plain
    assert "--- 1 of 3: train.parquet:1" in plain
    assert "--- 2" not in plain
    rendered = show(
        capsys, str(path), *arguments, "--tokenizer", str(model_dirs["student"]), "--max_prompt_tokens", "1"
    )
    assert re.search(r"prompt \(\d+ tokens\):", rendered)
    assert "3 dropped since they are longer than --max_prompt_tokens 1" in rendered


def test_pairs_are_shown_with_scores_and_contexts(tmp_path: Path, capsys):
    text = show(capsys, str(write_published("omni_dpo_text", tmp_path)))
    assert "scores: median of chosen 4.5, median difference 2.5 (from 2.5 to 2.5), 0 tied, 0 in the wrong order" in text
    assert "chosen (score 4.5):\n  Teal.\nrejected (score 2):\n  7" in text
    path = write_published("sentinel_data_pair", tmp_path)
    text = show(capsys, str(path), "--format", "sentinel", "--image_folder", str(tmp_path / "pictures"))
    assert "  user: <image>Describe this image in detail.\n  assistant: A teal square." in text
    assert "VG_100K/2315.png" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "uniopd data show: the following arguments are required: PATH"),
        (["t.jsonl", "--formt", "prime"], "uniopd data show: unrecognized arguments: --formt prime"),
        (["t.jsonl", "--format", "prim"], "argument --format/--data.train.format: invalid choice: 'prim'"),
        (["t.jsonl", "--as", "pairs", "--grader", "math"], "--data.train.grader is no option of pairs"),
        (["t.jsonl", "--rows", "-1"], "--rows must not be negative"),
        (["t.jsonl", "--max_prompt_tokens", "9"], "--max_prompt_tokens needs --tokenizer"),
        (["t.jsonl", "--answer_column", "gold"], "has no column 'gold'"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, arguments, message):
    (tmp_path / "t.jsonl").write_text('{"prompt": "p", "answer": "1"}\n')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["data", "show", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
