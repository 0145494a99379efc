"""Ways to do the same: packed and padded rows, one cache of a prompt or many, and options of the update."""

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu.setting import Batch, Row, Setting, update
from lit_uniopd.memory.plan import readable
from lit_uniopd.policy import LoraArgs, Policy
from lit_uniopd.sampling.decode_loop import Decoder, decode
from lit_uniopd.sampling.token_sampler import sample_token


def packed(setting: Setting) -> Iterator[Row]:
    """Packed attention against padded rows: time, log-probs, and the norm of the gradient."""
    batch, limit = setting.batch(spread=True), setting.sizes.micro_batch_tokens

    def results(share: bool) -> tuple[float, float]:
        policy = setting.policy(setting.args("0.6B", gradient_checkpointing=True, share_prompts=share))
        seconds = update_seconds(setting, policy, batch, limit)
        setting.reset_peak()
        return seconds, gradient_norm(policy)

    (padded_s, padded_norm), (packed_s, packed_norm) = results(False), results(True)
    note = f"norms of the gradient {packed_norm:.6g} and {padded_norm:.6g}"
    yield setting.row("update, packed / padded", f"{packed_s / padded_s:.2f} of the time", note)


def update_seconds(setting: Setting, policy: Policy, batch: Batch, limit: int) -> float:
    """Of a second pass over the batch under bf16-mixed; its gradients are left."""
    with setting.mixed():
        update(policy, batch, limit)
        policy.zero_grad()
        return setting.seconds(lambda: update(policy, batch, limit))


def gradient_norm(policy: Policy) -> float:
    return float(torch.nn.utils.get_total_norm([p.grad for p in policy.parameters() if p.grad is not None]))


def cascade(setting: Setting) -> Iterator[Row]:
    """Decoding against one cache of each prompt, and against one for each row."""
    policy, batch, sizes = setting.policy(setting.args("0.6B", dtype="bfloat16")), setting.batch(), setting.sizes
    rows, seconds, tokens = len(batch.prompts), {}, {}

    def write(share: bool) -> torch.Tensor:
        tokens_BT = torch.zeros(rows, sizes.new_tokens, dtype=torch.long, device=setting.device)
        logps_BT = torch.zeros(rows, sizes.new_tokens, device=setting.device)
        decoder = Decoder(policy.model, sizes.new_tokens)
        logits_RV = decoder.prefill(batch.table, sizes.n, 0, share=share)
        order_R, eos = torch.arange(rows, device=setting.device), torch.zeros(0, device=setting.device).long()
        decode(decoder, logits_RV, order_R, _choose, eos, tokens_BT, logps_BT, lambda finished, written: None)
        return tokens_BT

    with policy.answering():
        for share in (False, True):
            write(share)
            seconds[share] = setting.seconds(lambda: tokens.update({share: write(share)}))  # noqa: B023
    same = float((tokens[True] == tokens[False]).float().mean())
    note = f"{rows} rows, bfloat16; {same:.1%} of the tokens are the same"
    yield setting.row("decoding, one cache / one a row", f"{seconds[True] / seconds[False]:.2f} of the time", note)


def _choose(step: int, rows_R: torch.Tensor, logits_RV: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    uniform_R = torch.full((len(rows_R),), 0.5, dtype=torch.float64, device=logits_RV.device)
    return sample_token(logits_RV, uniform_R, 1.0, 0, 1.0)


OPTIONS: dict[str, dict[str, Any]] = {
    "checkpointing": {},
    "checkpointing, activation_offloading": {"activation_offloading": True},
    "checkpointing, compile": {"compile": True},
}


def options(setting: Setting) -> Iterator[Row]:
    """The update of the same model with options of `PolicyArgs`: tokens a second, and the peak of memory."""
    batch = setting.batch()
    for name, each in OPTIONS.items():
        setting.reset_peak()
        policy = setting.policy(setting.args("0.6B", gradient_checkpointing=True, **each))
        yield _update_row(setting, policy, batch, name)
        del policy


def qlora(setting: Setting) -> Iterator[Row]:
    """Adapters on weights in 4 bits, which must be stored before they are read."""
    import bitsandbytes

    stored, batch = setting.files / "model", setting.batch()
    setting.policy(setting.args("0.6B", dtype="bfloat16"), trainable=False).save(stored)
    setting.reset_peak()
    lora = LoraArgs(rank=8, alpha=16)
    args = setting.args("0.6B", quantization="4bit", lora=lora, gradient_checkpointing=True)
    args.config, args.path = None, str(stored)
    note = f"bitsandbytes {bitsandbytes.__version__}"
    yield _update_row(setting, setting.policy(args), batch, "QLoRA, rank 8", note)


def _update_row(setting: Setting, policy: Policy, batch: Batch, name: str, note: str = "") -> Row:
    seconds = update_seconds(setting, policy, batch, setting.sizes.micro_batch_tokens)
    peak = setting.peak()
    facts = [note, f"norm of the gradient {gradient_norm(policy):.6g}"]
    facts += [] if peak is None else [f"peak {readable(peak)}"]
    return setting.row(name, f"{batch.tokens / seconds:,.0f} tokens/s", "; ".join(filter(None, facts)))
