"""vLLM in the trainer's process: writing, weights brought, sleep and wake. Needs vLLM."""

from collections.abc import Iterator
from importlib import import_module

from benchmarks.gpu.setting import Row, Setting
from lit_uniopd.policy.chat_template import EncodedPrompt
from lit_uniopd.sampling import ColocateArgs, SamplingArgs, sample


def measure(setting: Setting) -> Iterator[Row]:
    """Rollouts of the 0.6B model, after each change of the weights and without."""
    version: str = import_module("vllm").__version__
    from lit_uniopd.sampling import engine_vllm_colocated

    sizes, policy, batch = setting.sizes, setting.policy(setting.args("0.6B", dtype="bfloat16")), setting.batch()
    room = ColocateArgs(
        gpu_memory_utilization=0.4,
        kv_cache_gib=None if setting.cuda else 1.0,
        max_model_len=sizes.prompt_tokens + sizes.new_tokens + 16,
    )
    args = SamplingArgs(n=sizes.n, max_new_tokens=sizes.new_tokens, engine="vllm", colocate=room)

    def write() -> None:
        sample(policy.model, batch.table, args, eos_ids=[], pad_id=0, seed=0, processor=policy.processor)

    with policy.answering():
        first = setting.seconds(write)
        yield setting.row("vLLM, first rollout", f"{first:.1f} s", f"vLLM {version}, the engine is made in it")
        whole = setting.seconds(write)
        yield setting.row("vLLM, rollout with wake, sync and sleep", f"{whole:.2f} s", f"{len(batch.prompts)} rows")
        engine = engine_vllm_colocated.engine_for(policy.model, args, policy.processor)
        with engine_vllm_colocated.staying_awake():
            write()
            seconds = setting.seconds(write)
            yield setting.row("vLLM, rollout alone", f"{sum(batch.lengths) / seconds:,.0f} tokens/s")
            sleep = setting.seconds(engine.rest)
        yield setting.row("vLLM, sleep (level 2)", f"{sleep:.2f} s" if setting.cuda else "left out", "on GPUs only")
        policy.model.get_input_embeddings().weight.mul_(0.5)  # else, awake, it has these weights
        probe = EncodedPrompt(batch.table[0][:16])
        sync = setting.seconds(lambda: engine.take_weights(policy.model, probe, room.max_drift))
        what = "wake and sync" if setting.cuda else "sync"
        yield setting.row(f"vLLM, {what}", f"{sync:.2f} s", "all weights, and a probe of 16 tokens")
