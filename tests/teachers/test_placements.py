"""Teachers that do not live beside the student give the same log-probs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import make_tokenizer
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

from lit_uniopd.errors import UserError
from lit_uniopd.policy import LoraArgs, Policy, PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.sampling.rollouts import write_answers
from lit_uniopd.teachers import HttpArgs, LocalTeacher, TeacherArgs
from lit_uniopd.teachers.cached import LogpCache
from lit_uniopd.teachers.pool import TeacherPool
from lit_uniopd.types import Prompt, Rollouts

DOMAINS = ["math", "code"]


@pytest.fixture(scope="module")
def student(model_dirs) -> Policy:
    return Policy.load(PolicyArgs(path=model_dirs["student"]), trainable=True)


@pytest.fixture(scope="module")
def rollouts(student) -> Rollouts:
    """The two teachers' prompts mixed."""
    prompts = [
        Prompt(id=f"p{i}", messages=({"role": "user", "content": "1+" * i + f"{i}="},), domain=DOMAINS[i % 2])
        for i in range(6)
    ]
    return write_answers(student, prompts, SamplingArgs(n=2, max_new_tokens=10), seed=0)


@pytest.fixture
def expected(model_dirs, student, rollouts) -> torch.Tensor:
    return score(pool_of(model_dirs), student, rollouts)


def pool_of(paths: dict[str, str], **options: Any) -> TeacherPool:
    return TeacherPool({name: TeacherArgs(path=paths[name], **options) for name in DOMAINS})


def score(pool: TeacherPool, student: Policy, rollouts: Rollouts, temperature: float = 1.0) -> torch.Tensor:
    pool.load(student)
    logps_BT, ok_B = pool.score(rollouts, temperature=temperature, max_tokens=60)
    assert ok_B.all()
    return logps_BT


# --- taking turns ----------------------------------------------------------------------------------------------------


@pytest.fixture
def moves(monkeypatch) -> list[tuple[str, str]]:
    """(method, teacher) of every move and of every forward pass."""
    calls: list[tuple[str, str]] = []

    def watch(method: str) -> None:
        real = getattr(LocalTeacher, method)

        def move(self: LocalTeacher, *args: Any, **options: Any) -> Any:
            if method == "fetch" or self._host_copies:  # a teacher that never came does not leave
                calls.append((method, self.name))
            return real(self, *args, **options)

        monkeypatch.setattr(LocalTeacher, method, move)

    watch("fetch")
    watch("send_away")
    return calls


def test_teachers_take_turns_on_the_device(model_dirs, student, rollouts, expected, moves):
    """All answers of one are scored, then it makes room for the next."""
    pool = pool_of(model_dirs, placement="cpu_offload")
    pool.load(student)
    pool.to(torch.device("cpu"))
    assert moves == []
    moves.clear()
    logps_BT, ok_B = pool.score(rollouts, temperature=1.0, max_tokens=40)
    assert ok_B.all()
    torch.testing.assert_close(logps_BT, expected, atol=1e-5, rtol=1e-5)
    assert moves == [("fetch", "math"), ("send_away", "math"), ("fetch", "code"), ("send_away", "code")]
    moves.clear()
    assert pool["math"] is pool["math"]
    _ = pool["code"]  # there is room for one
    pool.rest()
    assert (
        moves
        == [
            *[("send_away", "code"), ("fetch", "math")] * 3,
            *[("send_away", "math"), ("fetch", "code")],
            *[("send_away", "math"), ("send_away", "code")],
        ][2:]
    )


def test_weights_at_home_are_never_copied_back(model_dirs, student, rollouts):
    pool = pool_of(model_dirs, placement="cpu_offload")
    pool.load(student)
    pool.to(torch.device("cpu"))
    before = {name: p.detach().clone() for name, p in pool["math"].named_parameters()}
    for _ in range(2):
        pool.score(rollouts, temperature=1.0, max_tokens=1000)
    after = dict(pool["math"].named_parameters())
    assert all(torch.equal(before[name], p) for name, p in after.items())
    assert not any(p.requires_grad for p in after.values())
    assert after["model.model.embed_tokens.weight"] is pool["math"].model.lm_head.weight  # still tied


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_offloaded_teacher_leaves_the_gpu(model_dirs, student, rollouts, expected):
    device = torch.device("cuda")
    pool = pool_of(model_dirs, placement="cpu_offload")
    pool.load(student)
    pool.to(device)
    before = torch.cuda.memory_allocated()
    on_gpu = rollouts.to(device)
    empty = torch.cuda.memory_allocated()
    logps_BT, ok_B = pool.score(on_gpu, temperature=1.0, max_tokens=1000)
    assert ok_B.all()
    torch.testing.assert_close(logps_BT.cpu(), expected, atol=1e-4, rtol=1e-4)
    assert pool.loaded["math"].device.type == "cpu"
    assert pool.loaded["math"].model.lm_head.weight.is_pinned()
    del logps_BT, ok_B
    assert torch.cuda.memory_allocated() <= empty + (empty - before)
    assert pool["math"].device.type == "cuda"


# --- quantised -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"placement": "quantized"}, ("quantized", "4bit")),
        ({"placement": "quantized", "quantization": "8bit"}, ("quantized", "8bit")),
        ({"quantization": "4bit"}, ("quantized", "4bit")),  # as before there were placements
        ({}, ("resident", "none")),
    ],
)
def test_placement_and_quantization_say_the_same(options, expected):
    original = TeacherArgs(path="x", **options)
    args = TeacherPool({"math": original}).args["math"]
    assert (args.placement, args.quantization) == expected
    assert original == TeacherArgs(path="x", **options)


def test_a_quantised_teacher_scores(new_model, student, rollouts):
    """The numbers are those of the quantised policy, near those of the unquantised one."""
    path = new_model("wide", seed=1, width=64)
    pool = TeacherPool({"default": TeacherArgs(path=path, placement="quantized")})
    quantized_BT = score(pool, student, rollouts)
    assert "Linear4bit" in {type(module).__name__ for module in pool["default"].modules()}
    exact_BT = score(TeacherPool({"default": TeacherArgs(path=path)}), student, rollouts)
    assert 1e-3 < float((quantized_BT - exact_BT).abs().mean()) < 1.5


def test_mixtures_of_experts_are_refused_as_they_would_not_be_quantised(tmp_path, student):
    sizes: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "head_dim": 32}
    tokenizer = make_tokenizer()
    config = Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        **sizes,
    )
    Qwen3MoeForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    pool = TeacherPool({"math": TeacherArgs(path=str(tmp_path), placement="quantized")})
    with pytest.raises(UserError, match=r"--model\.teachers\.math\.quantization 4bit leaves the experts"):
        pool.load(student)


# --- the cache -------------------------------------------------------------------------------------------------------


@pytest.fixture
def loads(monkeypatch) -> list[str]:
    """Paths of the models that are loaded."""
    paths: list[str] = []
    real = Policy.load

    def load(args: PolicyArgs, **options: Any) -> Policy:
        paths.append(args.path)
        return real(args, **options)

    monkeypatch.setattr(Policy, "load", load)
    return paths


def files(cache: Path) -> list[Path]:
    return sorted(file for file in cache.glob("*.jsonl") if file.name != "weights.jsonl")


def test_answers_that_are_in_the_cache_need_no_teacher(model_dirs, tmp_path, student, rollouts, expected, loads):
    cached: dict[str, Any] = {"placement": "disk_cache", "cache": str(tmp_path)}
    first, second = pool_of(model_dirs, **cached), pool_of(model_dirs, **cached)
    torch.testing.assert_close(score(first, student, rollouts), expected, atol=1e-5, rtol=1e-5)
    assert first.cache_counts() == (0, 12)
    assert loads == [model_dirs["math"], model_dirs["code"]]
    cached_BT = score(second, student, rollouts)  # token by token, at the same places
    assert torch.equal(cached_BT, score(first, student, rollouts))
    assert second.cache_counts() == first.cache_counts() == (12, 0)
    assert len(loads) == 2
    assert second.loaded == {}
    assert len(files(tmp_path)) == 2  # one for each teacher


def test_a_teacher_is_loaded_for_what_is_missing_only(model_dirs, tmp_path, student, rollouts, expected, loads):
    cached: dict[str, Any] = {"placement": "disk_cache", "cache": str(tmp_path)}
    math = [row for row, prompt in enumerate(rollouts.prompts) if prompt.domain == "math"]
    pool = pool_of(model_dirs, **cached)
    score(pool, student, rollouts[math[:4]])
    assert loads == [model_dirs["math"]]
    again = pool_of(model_dirs, **cached)
    sizes: list[int] = []
    real = LocalTeacher.score

    def counting(self: LocalTeacher, missing: Rollouts, **options: Any) -> Any:
        sizes.append(len(missing))
        return real(self, missing, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalTeacher, "score", counting)
        torch.testing.assert_close(score(again, student, rollouts), expected, atol=1e-5, rtol=1e-5)
    assert again.cache_counts() == (4, 8)
    assert sizes == [2, 6]


def test_what_changes_the_numbers_changes_the_key(model_dirs, new_model, tmp_path, student, rollouts):
    options: dict[str, Any] = {"placement": "disk_cache", "cache": str(tmp_path / "cache")}
    path = new_model("teacher", seed=1)

    def misses(*, temperature: float = 1.0, answers: Rollouts = rollouts, **changes: Any) -> int:
        pool = TeacherPool({"default": TeacherArgs(path=path, **options, **changes)})
        score(pool, student, answers, temperature)
        counts = pool.cache_counts()
        assert counts is not None
        return counts[1]

    assert misses() == 12
    assert misses() == 0
    assert misses(temperature=2.0) == 12
    assert misses(dtype="bfloat16") == 12
    changed = rollouts[range(12)]
    changed.tokens_BT[0, 0] = (changed.tokens_BT[0, 0] + 1) % 60 + 1
    assert misses(answers=changed) == 1
    new_model("teacher", seed=1, tokenizer=make_tokenizer("{{ messages[0]['content'] }}"))  # another chat template
    assert misses() == 12
    new_model("teacher", seed=2)  # other weights in the same place
    assert misses() == 12
    new_model("teacher", seed=1)
    assert misses() == 0  # the first ones again
    assert len((tmp_path / "cache/weights.jsonl").read_text().splitlines()) > 2


@pytest.mark.parametrize("damage", ["byte", "swapped", "short", "rubbish", "gone"])
def test_damaged_entries_are_scored_again_and_counted(
    model_dirs, tmp_path, student, rollouts, expected, caplog, damage
):
    cached: dict[str, Any] = {"placement": "disk_cache", "cache": str(tmp_path)}
    score(pool_of(model_dirs, **cached), student, rollouts)
    for file in files(tmp_path):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        if damage == "swapped":
            lines[0]["logps"], lines[1]["logps"] = lines[1]["logps"], lines[0]["logps"]
        elif damage == "short":
            lines[0]["logps"] = lines[0]["logps"][:-8]
        elif damage == "byte":
            lines[0]["logps"] = "AAAA" + lines[0]["logps"][4:]
        texts = [json.dumps(line) for line in lines]
        if damage == "rubbish":
            texts[0] = texts[0][:40] + "\xff\x00" + texts[0][44:]
        file.write_text("\n".join(texts[damage == "gone" :]) + "\n", encoding="latin-1")
    pool = pool_of(model_dirs, **cached)
    with caplog.at_level("WARNING"):
        torch.testing.assert_close(score(pool, student, rollouts), expected, atol=1e-5, rtol=1e-5)
    lost = {"byte": 2, "swapped": 4, "short": 2, "rubbish": 2, "gone": 2}[damage]
    assert pool.cache_counts() == (12 - lost, lost)
    assert ("are damaged and not used" in caplog.text) == (damage != "gone")
    again = pool_of(model_dirs, **cached)
    torch.testing.assert_close(score(again, student, rollouts), expected, atol=1e-5, rtol=1e-5)
    assert again.cache_counts() == (12, 0)


def test_a_killed_run_loses_no_finished_batch(model_dirs, tmp_path, student, rollouts):
    math = [row for row, prompt in enumerate(rollouts.prompts) if prompt.domain == "math"]
    cached: dict[str, Any] = {"placement": "disk_cache", "cache": str(tmp_path)}
    pool = pool_of(model_dirs, **cached)
    pool.load(student)
    teacher = pool._teachers["math"]
    batches = teacher.score(rollouts[math], temperature=1.0, max_tokens=1)
    for _ in range(2):
        next(batches)  # then the power fails while a third is written
    (file,) = files(tmp_path)
    with file.open("ab") as out:
        out.write(b'{"answer": "0123')
    again = pool_of(model_dirs, **cached)
    score(again, student, rollouts)
    assert again.cache_counts() == (2, 10)
    last = pool_of(model_dirs, **cached)
    score(last, student, rollouts)
    assert last.cache_counts() == (12, 0)


def test_ranks_write_beside_each_other_and_read_all(tmp_path):
    first, second = (LogpCache(tmp_path / "x.jsonl", rank) for rank in range(2))
    first.add({"a": torch.tensor([-1.0, -2.5])})
    second.add({"b": torch.tensor([-3.0]), "c": torch.tensor([-0.1])})
    first.add({"d": torch.tensor([-4.0])})
    for cache in (LogpCache(tmp_path / "x.jsonl"), LogpCache(tmp_path / "x.jsonl", 1)):
        assert len(cache) == 4
        assert [cache.get(key, length) for key, length in (("a", 2), ("d", 1))] == [
            pytest.approx([-1.0, -2.5]),
            pytest.approx([-4.0]),
        ]
        assert cache.get("c", 1) == pytest.approx([-0.1])
        assert cache.get("c", 2) is None  # an answer of another length is not this one
        assert cache.get("nothing", 1) is None
        assert cache.corrupt == 1


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"placement": "cpu_offload", "quantization": "4bit"}, r"quantization 4bit cannot be had with .*cpu_offload"),
        ({"placement": "http", "http": HttpArgs(["http://h"]), "quantization": "8bit"}, "cannot be had with"),
        ({"placement": "http"}, r"placement http and --model\.teachers\.math\.http\.urls go together"),
        ({"http": HttpArgs(["http://h"])}, "go together"),
        ({"placement": "disk_cache"}, r"placement disk_cache and --model\.teachers\.math\.cache go together"),
        ({"cache": "somewhere"}, "go together"),
        ({"placement": "disk_cache", "cache": "x", "config": {"model_type": "qwen3"}}, "random weights"),
        ({"lora": LoraArgs()}, r"--model\.teachers\.math\.lora trains adapters"),
        ({"gather": "layers", "placement": "cpu_offload"}, r"gather layers is for weights that ranks share, and with"),
        ({"gather": "layers", "quantization": "4bit"}, r"placement quantized they do not; set placement resident, or"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        TeacherPool({"math": TeacherArgs(path="x", **options)})


def test_whole_weights_are_needed_to_write():
    pool = TeacherPool({"math": TeacherArgs(path="x", gather="layers")})
    pool.refuse(1.0, "sampled")
    with pytest.raises(UserError, match=r"--model\.teachers\.math\.gather is layers; set it to whole"):
        pool.refuse(1.0, "sampled", writer="teacher")


def test_a_cache_needs_a_model_to_be_had(tmp_path, student):
    bad: dict[str, Any] = {"placement": "disk_cache", "cache": str(tmp_path)}
    with pytest.raises(UserError, match=r"--model\.teachers\.math\.path \./nowhere: there is no such directory"):
        TeacherPool({"math": TeacherArgs(path="./nowhere", **bad)}).load(student)


def test_the_arguments_of_a_policy_make_a_resident_teacher():
    args = TeacherPool({"math": PolicyArgs(path="x", dtype="bfloat16", chat_template_kwargs={"a": 1})}).args["math"]
    assert args == TeacherArgs(path="x", dtype="bfloat16", chat_template_kwargs={"a": 1})
