"""What the tests of real engines share: tiny models, how they change, and how answers are compared."""

from typing import Any

import torch
from lightning import Callback
from tiny import module
from transformers import AutoModelForCausalLM

from lit_uniopd.modules import UniOPD
from lit_uniopd.sampling import ColocateArgs, Completions, SamplingArgs

PROMPTS = [[5, 7, 9, 11, 13], [9, 8, 7], [20, 21, 22, 23, 24, 25, 26]]
ROOM = ColocateArgs(kv_cache_gib=0.05, max_model_len=128)


def load(path: str) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def change(model: Any, seed: int) -> None:
    """Move every weight, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)


def with_log_probs_of(model: Any, answers: Completions, temperature: float) -> None:
    """Check the log-probs of three answers a prompt against the model itself, in transformers alone."""
    for row, tokens in enumerate(answers.tokens_BT):
        prompt = PROMPTS[row // 3]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt + tokens.tolist()])).logits[0, len(prompt) - 1 : -1]
        expected = (logits.double() / temperature).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        torch.testing.assert_close(answers.logps_BT[row].double(), expected, atol=1e-4, rtol=0)


def same(vllm: Completions, loop: Completions) -> None:
    assert torch.equal(vllm.tokens_BT, loop.tokens_BT)
    assert vllm.finish == loop.finish
    torch.testing.assert_close(vllm.logps_BT, loop.logps_BT, atol=1e-4, rtol=0)


class Drifts(Callback):
    """What every step said of the engine."""

    def __init__(self) -> None:
        self.largest: list[float] = []

    def on_train_batch_end(self, trainer: Any, *_: Any, **__: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        self.largest.append(float(trainer.callback_metrics["rollout/engine_drift_max"]))


def large_steps(params: Any) -> torch.optim.Optimizer:
    """Stale weights would show in the log-probs."""
    return torch.optim.AdamW(params, lr=0.03)


def on_policy(paths: dict[str, str], **options: Any) -> UniOPD:
    sampling = SamplingArgs(n=3, max_new_tokens=6, engine="vllm", colocate=ROOM)
    return module(paths, **{"sampling": sampling, "optimizer": large_steps, **options})
