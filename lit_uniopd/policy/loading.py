"""Loading weights and tokenizers from the hub, a directory or a config: safetensors only, no downloaded code."""

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.quantizers.auto import AutoHfQuantizer

from lit_uniopd.errors import UserError, first_line
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.policy.gguf import gguf_files
from lit_uniopd.utils.jsonl import append_lines, read_lines
from lit_uniopd.utils.paths import is_local_model, no_directory, resolve_path


def load_processor(args: PolicyArgs, flag: str) -> Any:
    """The tokenizer of a text model, or the processor of one that reads pictures.

    Raises:
        UserError: naming the flag, if none can be loaded.
    """
    source = args.tokenizer or args.path
    if not source:
        raise UserError(f"--{flag}.path is empty; give a hub id or a model directory.")
    where = resolve_path(source)
    config = model_config(args, flag)
    loader = AutoProcessor if _reads_images(config) else AutoTokenizer
    with _as_user_error(f"--{flag}.{'tokenizer' if args.tokenizer else 'path'}", source):
        return loader.from_pretrained(
            where, revision=None if args.tokenizer else args.revision, trust_remote_code=args.trust_remote_code
        )


def reads_images(args: PolicyArgs, flag: str) -> bool:
    """Whether the model reads pictures, from its config alone.

    Raises:
        UserError: naming the flag, if no config can be loaded.
    """
    return _reads_images(model_config(args, flag))


def load_model(args: PolicyArgs, *, trainable: bool, flag: str) -> PreTrainedModel:
    """The weights, in the type and quantisation that ``args`` ask for.

    Raises:
        UserError: naming the flag, if they cannot be loaded or cannot be quantised.
    """
    if args.config is not None:
        if args.quantization != "none":
            raise UserError(
                f"--{flag}.quantization {args.quantization} needs stored weights, and --{flag}.config makes random "
                f"ones; give --{flag}.path, or set it to 'none'."
            )
        dtype = _dtype(args, trainable)
        return _from_config(args, model_config(args, flag), torch.float32 if dtype == "auto" else dtype)
    model = load_stored(args, trainable=trainable, flag=flag)
    if args.quantization != "none":
        _refuse_unquantised_experts(model, flag, args.quantization)
        _configure_bitsandbytes(model)
    return model


def load_stored(args: PolicyArgs, *, trainable: bool, flag: str) -> PreTrainedModel:
    """What ``from_pretrained`` makes of a directory or a hub id.

    Raises:
        UserError: naming the flag, if it cannot be loaded.
    """
    loader = _loader(model_config(args, flag))
    with _as_user_error(f"--{flag}.path", args.path):
        return loader.from_pretrained(
            resolve_path(args.path),
            revision=args.revision,
            dtype=_dtype(args, trainable),
            use_safetensors=True,
            quantization_config=_quantization(args),
            **_options(args),
        )


def outline_model(args: PolicyArgs, *, trainable: bool, flag: str) -> PreTrainedModel:
    """The model that ``load_model`` would give, from its config alone, on torch's default device: the meta device, say.

    Layers that would be quantised are of their quantised class, their weights not packed yet.

    Raises:
        UserError: naming the flag, if no config can be loaded.
    """
    config = model_config(args, flag)
    dtype = _dtype(args, trainable)
    if dtype == "auto":
        # What `from_pretrained` reads off the config; where that is silent, weights are taken as float32.
        stored = None if args.config is not None else config.dtype or config.get_text_config().dtype
        dtype = stored if isinstance(stored, torch.dtype) else torch.float32
    model = _from_config(args, config, dtype)
    quantization = _quantization(args)
    if quantization is not None:
        AutoHfQuantizer.from_config(quantization).preprocess_model(model, device_map=None)
        setattr(model, f"is_loaded_in_{args.quantization}", True)  # peft looks for it
    return model


def _from_config(args: PolicyArgs, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    return _loader(config).from_config(config, dtype=dtype, **_options(args))


def _loader(config: PretrainedConfig) -> Any:
    return AutoModelForImageTextToText if _reads_images(config) else AutoModelForCausalLM


def _options(args: PolicyArgs) -> dict[str, Any]:
    options: dict[str, Any] = {"trust_remote_code": args.trust_remote_code}
    if args.attn_implementation is not None:
        options["attn_implementation"] = args.attn_implementation
    return options


def weights_fingerprint(args: PolicyArgs, flag: str, digest_cache: Path) -> str:
    """Identifies a stored model's weights without loading them: the hub's commit, or digests of its files.

    Args:
        args: where the model is.
        flag: the option that ``args`` came from, for messages.
        digest_cache: JSONL file of digests by path, size and time, so that each large file is read once.

    Raises:
        UserError: naming the flag, if there is no such model, or one without safetensors weights.
    """
    directory = Path(resolve_path(args.path))
    if not directory.is_dir():
        commit = getattr(model_config(args, flag), "_commit_hash", None)
        if commit is None:
            raise UserError(f"--{flag}.path {args.path}: the hub tells no commit of it; download it and give its path.")
        return f"{args.path}@{commit}"
    files = sorted([*directory.glob("*.safetensors"), directory / "config.json"])
    if len(files) < 2:
        raise UserError(f"--{flag}.path {args.path}: it has no safetensors weights; convert them with save_pretrained.")
    cached = {line["file"]: line["digest"] for line in read_lines(digest_cache) if {"file", "digest"} <= line.keys()}
    digests = []
    for file in files:
        status = file.stat()
        key = f"{file.resolve()} {status.st_size} {status.st_mtime_ns}"
        if key not in cached:
            with file.open("rb") as content:
                cached[key] = hashlib.file_digest(content, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
            append_lines(digest_cache, [{"file": key, "digest": cached[key]}])
        digests.append(f"{file.name} {cached[key]}")
    return "\n".join(digests)


def model_config(args: PolicyArgs, flag: str) -> PretrainedConfig:
    """The model's config, without its weights.

    Raises:
        UserError: naming the flag, if none can be loaded.
    """
    if args.config is not None:
        settings = dict(args.config)
        try:
            return AutoConfig.for_model(settings.pop("model_type"), **settings)
        except (KeyError, ValueError) as error:
            raise UserError(
                f"--{flag}.config needs a `model_type` that transformers knows ({first_line(error)}); name one."
            ) from error
    with _as_user_error(f"--{flag}.path", args.path):
        return AutoConfig.from_pretrained(
            resolve_path(args.path), revision=args.revision, trust_remote_code=args.trust_remote_code
        )


def _reads_images(config: PretrainedConfig) -> bool:
    return getattr(config, "vision_config", None) is not None


def _dtype(args: PolicyArgs, trainable: bool) -> Any:
    if args.dtype != "auto":
        return getattr(torch, args.dtype)
    return torch.float32 if trainable and args.lora is None else "auto"


def _quantization(args: PolicyArgs) -> BitsAndBytesConfig | None:
    if args.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    if args.quantization == "4bit":
        compute = torch.bfloat16 if torch.cuda.is_available() else torch.float32
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=compute,
            # The bytes travel as bfloat16: FSDP2 cannot shard the default uint8 next to other weights.
            bnb_4bit_quant_storage=torch.bfloat16,
        )
    return None


def _configure_bitsandbytes(model: PreTrainedModel) -> None:
    for module in model.modules():
        # On CPUs with AVX-512 BF16 an eval-mode forward repacks 4-bit weights permanently: products are then rounded to
        # bfloat16, and pass no gradient when training goes on.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
    # It logs for each 8-bit layer and forward pass that inputs are cast to float16, which is how the method works.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def _refuse_unquantised_experts(model: PreTrainedModel, flag: str, quantization: str) -> None:
    """Transformers leaves mixture-of-experts weights unquantised: a "4-bit" 30B-A3B would be 59 GB."""
    unquantised = [name for name, p in model.named_parameters() if ".experts." in name and p.is_floating_point()]
    if unquantised:
        raise UserError(
            f"--{flag}.quantization {quantization} leaves the experts of this mixture-of-experts model unquantised "
            f"({len(unquantised)} tensors, {unquantised[0]} for one); use 'none' or a dense model."
        )


class _as_user_error:
    """Turn transformers' loading errors into one sentence that names the flag."""

    def __init__(self, flag: str, path: str) -> None:
        self.flag, self.path = flag, path

    def __enter__(self) -> None:
        if not self.path:
            raise UserError(f"{self.flag} is empty; give a hub id or a model directory.")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ImportError):  # processors of some image-text models need torchvision
            raise UserError(
                f"{self.flag} {self.path} needs a package that is not here ({first_line(error)}); install it."
            ) from error
        if isinstance(error, UserError) or not isinstance(error, OSError | ValueError | KeyError):
            return
        is_local = is_local_model(self.path)
        if files := gguf_files(self.path):
            file, which = (files[0], "it") if len(files) == 1 else (Path(self.path, "FILE"), "one of its files")
            names = "" if len(files) == 1 else f" ({', '.join(file.name for file in files)})"
            hint = f"it is in GGUF; convert {which}{names} by `uniopd convert {file} OUT`, and give OUT"
        elif not is_local and "gguf" in self.path.lower():
            hint = "it is in GGUF; download one of its files, convert it by `uniopd convert FILE OUT`, and give OUT"
        elif is_local and not Path(resolve_path(self.path)).is_dir():
            raise no_directory(self.flag, self.path) from error
        elif is_local and "safetensors" in str(error):
            hint = "it has no safetensors weights; convert them with save_pretrained"
        elif "trust_remote_code" in str(error):
            hint = "it comes with its own Python code; set trust_remote_code only if you trust it"
        elif is_local:
            hint = f"it is not a complete model directory ({first_line(error)}); give one that save_pretrained wrote"
        else:
            hint = (
                f"there is no such directory here and the hub did not give it ({first_line(error)}); mend the name, or "
                "check the network"
            )
        raise UserError(f"{self.flag} {self.path}: {hint}.") from error
