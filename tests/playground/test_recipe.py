"""Building the playground with a recipe so small that it learns nothing: what matters here is the files."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from lit_uniopd.errors import UserError
from lit_uniopd.playground import Recipe, build, recipe, thread_probe
from lit_uniopd.playground.locate import locate
from lit_uniopd.playground.models import CHARACTERS, encode, make_tokenizer

TINY = Recipe(
    width=16,
    layers=1,
    batch_size=4,
    student_stops_at=0.0,
    teacher_stops_at=0.0,
    max_steps=2,
    warmup_steps=1,
    train_prompts=20,
    stopping_prompts=4,
    heldout_prompts=8,
)


def contents(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def test_models_and_prompts_are_there_and_load(tmp_path):
    playground = build(tmp_path, 0, TINY)
    for name in ("student", "math_teacher", "code_teacher"):
        model = AutoModelForCausalLM.from_pretrained(playground.root / name)
        assert model.config.model_type == "qwen3"
        assert AutoTokenizer.from_pretrained(playground.root / name).eos_token_id == model.config.eos_token_id
    rows = [json.loads(line) for line in playground.heldout.read_text().splitlines()]
    assert len(rows) == 16
    assert set(rows[0]) == {"id", "prompt", "answer", "domain", "teacher", "grader"}
    assert {row["domain"] for row in rows} == {"math", "code"}
    assert len({row["id"] for row in rows}) == 16


def test_the_same_seed_builds_the_same_files_and_another_does_not(tmp_path):
    torch.rand(3)  # the running random state has no influence, nor is it touched
    state = torch.get_rng_state()
    first = contents(build(tmp_path / "a", 0, TINY).root)
    assert torch.equal(torch.get_rng_state(), state)
    assert contents(build(tmp_path / "b", 0, TINY).root) == first
    assert contents(build(tmp_path / "c", 1, TINY).root) != first


def test_teachers_differ_from_the_student_and_from_each_other(tmp_path):
    root = build(tmp_path, 0, TINY).root
    weights = [load_file(root / name / "model.safetensors") for name in ("student", "math_teacher", "code_teacher")]
    name = "model.embed_tokens.weight"
    assert not torch.equal(weights[0][name], weights[1][name])
    assert not torch.equal(weights[1][name], weights[2][name])


def test_a_second_build_reuses_the_first(tmp_path, monkeypatch):
    root = build(tmp_path, 0, TINY).root
    monkeypatch.setattr(recipe, "_make", lambda *_: pytest.fail("built again"))
    assert build(tmp_path, 0, TINY).root == root


@pytest.mark.parametrize("damage", ["other recipe", "no recipe", "torn recipe", "no student"])
def test_stale_and_broken_caches_are_built_anew(tmp_path, damage):
    root = build(tmp_path, 0, TINY).root
    tiny = TINY
    if damage == "other recipe":
        tiny = replace(TINY, train_prompts=24)
    elif damage == "no recipe":
        (root / "recipe.json").unlink()
    elif damage == "torn recipe":
        (root / "recipe.json").write_text('{"recipe": {"wid')
    else:
        (root / "student/model.safetensors").unlink()
    before = root.stat().st_ino
    build(tmp_path, 0, tiny)
    assert (root / "student/model.safetensors").exists()
    assert root.stat().st_ino != before  # made beside the old one, then put in its place


def test_a_killed_build_leaves_nothing_that_looks_finished(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "write_prompts", killed)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, 0, TINY)
    assert list(tmp_path.iterdir()) == []


def test_of_two_builds_at_once_one_wins_whole(tmp_path, monkeypatch):
    """The other process finishes just before this one renames its work."""
    make, finished = recipe._make, []

    def slower(directory, seed, tiny):
        notes = make(directory, seed, tiny)
        monkeypatch.setattr(recipe, "_make", make)
        finished.append(build(tmp_path, seed, tiny).root.stat().st_ino)
        return notes

    monkeypatch.setattr(recipe, "_make", slower)
    root = build(tmp_path, 0, TINY).root
    assert [entry.name for entry in tmp_path.iterdir()] == [root.name]
    assert [root.stat().st_ino] == finished  # whoever reads the first one goes on reading it


def test_a_model_that_does_not_learn_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"reached 0\.00 instead of 1\.10 in 2 steps"):
        build(tmp_path, 0, replace(TINY, student_stops_at=1.1))


def test_locate(tmp_path, monkeypatch):
    builder = importlib.import_module("lit_uniopd.playground.locate")
    monkeypatch.setattr(builder, "build", lambda root, seed: recipe.Playground(Path(root) / f"seed{seed}"))
    assert locate("math_teacher", tmp_path, 3) == tmp_path / "seed3/math_teacher"
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    assert locate("heldout.jsonl", tmp_path) == tmp_path / "seed5/heldout.jsonl"
    with pytest.raises(
        UserError,
        match=r"playground:maths_teacher is unknown \(did you mean math_teacher\?\); write playground: and one of",
    ):
        locate("maths_teacher", tmp_path)
    assert list(tmp_path.iterdir()) == []  # nothing was trained


def test_the_tokenizer_reads_and_writes_every_character():
    tokenizer = make_tokenizer()
    ids = tokenizer(CHARACTERS, add_special_tokens=False).input_ids
    assert ids == encode(CHARACTERS)
    assert tokenizer.decode(ids) == CHARACTERS
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "M1+1%="}], add_generation_prompt=True, tokenize=False
    )
    assert text == "<bos>M1+1%="


def test_the_thread_probe_leaves_the_thread_count_alone_and_obeys_the_user(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    thread_probe.cache_clear()
    before = torch.get_num_threads()
    assert thread_probe() >= 1
    assert torch.get_num_threads() == before
    thread_probe.cache_clear()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert thread_probe() == 3
    thread_probe.cache_clear()
