"""A config that names hardware fits on it, by the memory plan at true sizes."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_uniopd.cli import main
from lit_uniopd.memory import MemoryPlan, Setup, Workload, plan_memory
from lit_uniopd.memory.plan import GIB
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.sampling import SamplingArgs, engine_vllm_colocated
from lit_uniopd.teachers.args import TeacherArgs

ROOT = Path(__file__).parents[2] / "configs"
H100 = int(79.1 * GIB)
QWEN3_4B = {
    "model_type": "qwen3", "hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 9728, "vocab_size": 151936,
    "tie_word_embeddings": True, "max_position_embeddings": 40960,
}  # fmt: skip


@pytest.fixture
def plan_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plan of config files with a 4B student and 4B teachers in bfloat16, on GPUs of 80 GB that have vLLM."""
    monkeypatch.setattr(engine_vllm_colocated, "is_installed", lambda: True)

    def plan(files: list[str], **machine: Any) -> MemoryPlan:
        with pytest.raises(SystemExit):
            main(["fit", *(word for file in files for word in ("-c", str(ROOT / file))), "--print_config"])
        config = yaml.safe_load(capsys.readouterr().out)
        model, data = config["model"]["init_args"], config["data"]["init_args"]
        sampling = SamplingArgs(**{name: model["sampling"][name] for name in ("n", "max_new_tokens", "max_rows")})
        workload = Workload.of_rollouts(
            sampling,
            answers=data["global_batch_size"] * sampling.n,
            longest_prompt=data["max_prompt_tokens"],
            micro_batch_tokens=model["micro_batch_tokens"],
            here=True,
            cuda=True,
        )
        module, _, name = model["optimizer"]["class_path"].rpartition(".")
        optimizer, options = getattr(import_module(module), name), model["optimizer"]["init_args"]
        checkpointing = model["student"]["gradient_checkpointing"]
        teachers = {
            name: TeacherArgs(config=QWEN3_4B, tokenizer="-", dtype="bfloat16", placement=args["placement"])
            for name, args in model["teachers"].items()
        }
        policy = PolicyArgs(config=QWEN3_4B, tokenizer="-", gradient_checkpointing=checkpointing)
        precision = config["trainer"]["precision"]
        facts = {"precision": precision, "cuda": True, "device_bytes": H100, **machine}
        return plan_memory(
            Setup(policy, "model.student", lambda p: optimizer(p, **options), workload, teachers=teachers, **facts)
        )

    return plan


def test_multi_teacher_fits_on_one_gpu(plan_of):
    plan = plan_of(["uni_opd/multi_teacher.yaml", "uni_opd/one_gpu.yaml", "trainer/gpu.yaml"])
    assert 60 * GIB < plan.total < 0.95 * H100


def test_multi_teacher_fits_on_eight(plan_of):
    options = {"shards": 8, "devices": 8, "gathered_bytes": 2, "whole_gradients": True}
    plan = plan_of(["uni_opd/multi_teacher.yaml", "trainer/fsdp.yaml"], **options)
    assert plan.total < 0.95 * H100


def test_without_those_settings_it_does_not_fit_on_one(plan_of):
    assert plan_of(["uni_opd/multi_teacher.yaml", "trainer/gpu.yaml"]).total > H100
