"""Tokens a second and the share of the device's peak, against operations counted by hand."""

from typing import Any

import pytest
from tiny import Memory, Prompts, module, prompts, trainer

from lit_uniopd.modules import LossArgs
from lit_uniopd.modules.opd import step_work
from lit_uniopd.monitoring.peak_flops import peak_of

PEAK = 1e9
LAYER = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64
"""Weights of `tiny.make_model` in one layer: queries, keys and values, output, MLP."""


def forward(prompt: int, answers: list[int], vocabulary: int) -> float:
    """Of a prompt that is read once, and of its answers."""
    tokens = prompt + sum(answers)
    attended = sum(range(1, prompt + 1)) + sum(sum(range(prompt + 1, prompt + 1 + n)) for n in answers)
    return 2 * (2 * LAYER * tokens + 32 * vocabulary * sum(answers)) + 4 * 2 * 32 * attended


@pytest.mark.parametrize("loss", ["sampled", "reverse_kl"])
def test_a_step_says_how_fast_its_parts_are(loss, model_dirs, tmp_path, monkeypatch):
    monkeypatch.setattr(step_work, "peak_flops", lambda device: PEAK)
    model, logged = module(model_dirs, loss=LossArgs(kind=loss)), Memory()
    run = trainer(tmp_path, logger=logged, max_steps=1)
    run.fit(model, Prompts(prompts(4)))
    rollouts: Any = model.rollouts
    lengths: dict[int, list[int]] = {}
    for group, length in zip(rollouts.group_B.tolist(), rollouts.lengths_B.tolist(), strict=True):
        lengths.setdefault(group, []).append(length)
    read = dict(zip(rollouts.group_B.tolist(), map(len, rollouts.prompt_tokens), strict=True))
    vocabulary = model.policy.model.get_output_embeddings().weight.shape[0]
    once = sum(forward(read[group], answers, vocabulary) for group, answers in lengths.items())
    in_update = (3 if loss == "sampled" else 4) * once  # there the teacher reads the answers once more
    values = logged.values
    for part, operations in (("rollout", once), ("score", once), ("update", in_update)):
        assert values[f"time/{part}_mfu"] * PEAK * values[f"time/{part}"] == pytest.approx(operations, rel=1e-4)
    total = values["time/mfu"] * PEAK * values["time/step"]
    assert total == pytest.approx(2 * once + in_update, rel=1e-4)
    tokens = sum(read.values()) + int(rollouts.mask_BT.sum())
    for part in ("score", "update"):
        assert values[f"time/{part}_tokens_per_second"] * values[f"time/{part}"] == pytest.approx(tokens, rel=1e-4)
    assert {tag for tags in model.work.charts.values() for tag in tags} <= values.keys()


def test_of_a_device_without_a_known_peak_there_are_tokens_only(model_dirs, tmp_path):
    model, logged = module(model_dirs), Memory()
    trainer(tmp_path, logger=logged, max_steps=1).fit(model, Prompts(prompts(4)))
    assert not [tag for tag in logged.values if "mfu" in tag]
    assert logged.values["time/update_tokens_per_second"] > 0
    assert list(model.work.charts) == ["Tokens a second"]


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10G", 70),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA L4", 121),
        ("AMD Instinct MI300X", 1307),
        ("Quadro K620", None),
    ],
)
def test_peaks(name, tflops):
    peak = peak_of(name)
    assert peak is None if tflops is None else peak == tflops * 1e12
