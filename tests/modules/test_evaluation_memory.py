"""What `validate` holds is planned before anything is loaded, and refused where it cannot fit."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tiny import Prompts, prompts, trainer

from datamodules import BenchmarkDataModule
from lit_uniopd.benchmarks.engine import chatting
from lit_uniopd.benchmarks.loading import load_benchmark
from lit_uniopd.benchmarks.registry import find_spec
from lit_uniopd.errors import UserError
from lit_uniopd.modules import Evaluation
from lit_uniopd.modules.evaluation_memory import evaluation_setups
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.sampling import ColocateArgs, SamplingArgs, engines

TINY = {"policy": PolicyArgs(path="playground:tiny_text"), "vision_policy": PolicyArgs(path="playground:tiny_vision")}


def evaluated(tmp_path: Any, data: Any = None, **options: Any) -> tuple[Any, Any]:
    runner = trainer(tmp_path, limit_val_batches=1.0)
    module = Evaluation(**{**TINY, **options})
    data = data or BenchmarkDataModule(["aime24", "chartqa"], profile="fixture", max_rows=2)
    runner.validate(module, data, verbose=False)
    return runner, module


def test_each_model_is_planned_with_the_benchmark_that_needs_most(tmp_path):
    runner, module = evaluated(tmp_path)
    setups = evaluation_setups(runner, module, module.validation.evaluator)
    assert [setup.flag for setup in setups] == ["model.policy", "model.vision_policy"]
    for setup, policy in zip(setups, module.evaluated_policies, strict=True):
        assert (setup.optimizer, setup.workload.rows, setup.workload.rows_flag) == (None, 2, "data.max_rows")
        (answered,) = [b for b in module.validation.evaluator.benchmarks.values() if module.policy_for(b) is policy]
        with chatting(policy, answered):
            longest = max(len(policy.encode(answered.prompt(row)).tokens) for row in answered.examples)
        assert setup.workload.prompt_tokens == longest
        assert setup.workload.new_tokens == answered.generation.max_new_tokens


def test_the_prompt_of_a_last_turn_holds_the_answers_before_it(tmp_path):
    runner, module = evaluated(tmp_path, BenchmarkDataModule(["sedareval"], profile="fixture", max_rows=8))
    (setup, *_) = evaluation_setups(runner, module, module.validation.evaluator)
    (answered,) = module.validation.evaluator.benchmarks.values()
    (talk,) = (row for row in answered.examples if row.turns)
    assert len(talk.turns) == 2
    with chatting(module.policy, answered):
        longest = max(len(module.policy.encode(answered.prompt(row)).tokens) for row in answered.examples)
    new = answered.generation.max_new_tokens
    assert setup.workload.prompt_tokens == longest + new
    assert setup.workload.longest_row == longest + 2 * new


def test_the_plan_holds_weights_and_no_gradients(model_dirs, tmp_path):
    _, module = evaluated(
        tmp_path, Prompts(prompts(4)), policy=PolicyArgs(path=model_dirs["student"]), vision_policy=None
    )
    parts = {part.name: part.bytes for part in module.memory.plan.allocations}
    assert parts["policy: weights"] == sum(p.nbytes for p in [*module.policy.parameters(), *module.policy.buffers()])
    assert not any("gradient" in name or "optimizer" in name or "activations" in name for name in parts)


def test_what_cannot_fit_is_refused_before_it_is_loaded(model_dirs, tmp_path, monkeypatch):
    monkeypatch.setattr("lit_uniopd.policy.policy.load_model", lambda *_: pytest.fail("weights were loaded"))
    monkeypatch.setattr("lit_uniopd.memory.planner.free_bytes", lambda *_: 1000)
    with pytest.raises(UserError, match=r"cannot fit: .* set --model\.policy\.dtype bfloat16 .*quantization 4bit"):
        evaluated(tmp_path, Prompts(prompts(4)), policy=PolicyArgs(path=model_dirs["student"]), vision_policy=None)


def test_as_many_answers_are_written_at_once_as_the_data_say(tmp_path, monkeypatch):
    rows, original = [], engines.ENGINES["loop"].write

    def counting(request: Any) -> Any:
        rows.append((request.rows, request.args.max_rows))
        return original(request)

    monkeypatch.setattr(engines.ENGINES["loop"], "write", counting)
    data = BenchmarkDataModule(["math500"], profile="fixture", max_rows=300)
    evaluated(tmp_path, data)
    trial, batch = rows[-2], rows[-1]
    assert batch == (len(data.benchmarks[0].examples), 300)
    assert trial == batch


def test_benchmarks_take_the_engine_of_val_sampling(tmp_path, monkeypatch):
    requested = []
    engine = SimpleNamespace(
        write=lambda request: requested.append(request.args) or engines.ENGINES["loop"].write(request),
        is_installed=bool,
    )
    monkeypatch.setitem(engines.ENGINES, "vllm", engine)
    monkeypatch.setattr("lit_uniopd.sampling.engine_vllm_colocated.is_installed", lambda: True)
    room = ColocateArgs(max_model_len=4096)
    sampling = SamplingArgs(n=3, engine="vllm", max_rows=7, colocate=room)
    data = BenchmarkDataModule(["math500"], profile="fixture", max_rows=300)
    evaluated(tmp_path, data, val_sampling=sampling)
    assert {(args.engine, args.max_rows, args.n, args.colocate.max_model_len) for args in requested} == {
        ("vllm", 7, 1, 4096)
    }


def test_on_a_gpu_an_evaluation_asks_for_the_engine_of_the_rollouts(tmp_path, monkeypatch):
    """The same room and the same number of answers at once: it is chosen once for a model, not for every row."""
    engine_args = []
    loop = engines.ENGINES["loop"].write
    monkeypatch.setitem(engines.ENGINES, "vllm", SimpleNamespace(write=loop))
    monkeypatch.setattr(engines, "_on_gpu", lambda _: True)
    monkeypatch.setattr("lit_uniopd.sampling.engine_vllm_colocated.is_installed", lambda: True)
    monkeypatch.setattr(
        "lit_uniopd.sampling.engine_vllm_colocated.engine_for", lambda *args: engine_args.append(args[1])
    )
    data = BenchmarkDataModule(["aime24"], profile="smoke", max_rows=2, limit=1)
    benchmark = load_benchmark(find_spec("aime24"), "fixture")
    sampled = replace(benchmark, generation=replace(benchmark.generation, temperature=1.0))
    monkeypatch.setattr(data, "_load", lambda: setattr(data, "benchmarks", [sampled]))
    evaluated(tmp_path, data, val_sampling=SamplingArgs(n=1, max_rows=7))
    assert len(sampled.examples) > 2
    assert {args.max_rows for args in engine_args} == {7}
    assert len(engine_args) == 2  # by the trial, and by the evaluation


def test_vllm_that_is_missing_is_told_before_anything_is_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("lit_uniopd.sampling.engine_vllm_colocated.is_installed", lambda: False)
    data = BenchmarkDataModule(["math500"], profile="fixture")
    options = replace(SamplingArgs(n=1), engine="vllm")
    with pytest.raises(UserError, match=r"needs vLLM in this environment"):
        evaluated(tmp_path, data, val_sampling=options)
