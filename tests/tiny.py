"""Tiny models and tokenizers in the format of the hub, and a small UniOPD run around them."""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.loggers import Logger
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from lit_uniopd.modules import UniOPD
from lit_uniopd.policy import PolicyArgs
from lit_uniopd.sampling import SamplingArgs
from lit_uniopd.types import Prompt, PromptBatch

SPECIAL = ["<pad>", "<bos>", "<eos>", "<end>"]
CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789+-*/=.,:?!{}\\[]()<> \n"
CHAT = (
    "{% for m in messages %}{{ '<bos>' + m['role'][0] + ':' + m['content'] + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<bos>a:' }}{% endif %}"
)


def make_tokenizer(
    chat_template: str | None = CHAT, extra: tuple[str, ...] = (), characters: str = CHARACTERS
) -> PreTrainedTokenizerFast:
    """One token per character."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *characters, *extra])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    tokenizer.chat_template = chat_template
    return tokenizer


def make_model(
    directory: Path,
    *,
    seed: int = 0,
    tokenizer: PreTrainedTokenizerFast | None = None,
    vocab_size: int | None = None,
    width: int = 32,
) -> Path:
    """Write a random 2-layer Qwen3 and its tokenizer."""
    speaks: Any = tokenizer or make_tokenizer()
    config = Qwen3Config(
        vocab_size=vocab_size or len(speaks),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=width // 4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        eos_token_id=speaks.eos_token_id,
        pad_token_id=speaks.pad_token_id,
        bos_token_id=speaks.bos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)  # far from uniform, so that errors show
    model.save_pretrained(directory)
    speaks.save_pretrained(directory)
    return directory


def sgd(params: Any) -> torch.optim.Optimizer:
    """Unlike Adam's, its step is proportional to the gradient, so that a gradient of 1e-7 is seen to be nothing."""
    return torch.optim.SGD(params, lr=0.1)


def adam(params: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=1e-3)


def prompts(count: int) -> list[Prompt]:
    domains = ["math", "code"]
    return [
        Prompt(
            id=f"p{i}",
            messages=({"role": "user", "content": "1+" * (i % 3) + f"{i % 10}="},),
            gold=str(i % 10),
            domain=domains[i % 2],
            grader="exact",
        )
        for i in range(count)
    ]


class Prompts(LightningDataModule):
    """The first prompts in order, a batch a step."""

    def __init__(self, train: list[Prompt], batch_size: int = 4) -> None:
        super().__init__()
        self.train_prompts = train
        self.val_prompts = train[:2]
        self.batch_size = batch_size

    def loader(self, items: list[Prompt]) -> DataLoader:
        return DataLoader(items, batch_size=self.batch_size, collate_fn=PromptBatch)  # type: ignore[arg-type]

    def train_dataloader(self) -> DataLoader:
        return self.loader(self.train_prompts)

    def val_dataloader(self) -> DataLoader:
        return self.loader(self.val_prompts)

    predict_dataloader = val_dataloader


class Memory(Logger):
    """Remembers the last value of everything that was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, float] = {}

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.values |= metrics

    def log_hyperparams(self, *_: Any, **__: Any) -> None: ...

    @property
    def name(self) -> None: ...

    @property
    def version(self) -> None: ...


def module(paths: dict[str, str], **options: Any) -> UniOPD:
    settings: dict[str, Any] = {
        "student": PolicyArgs(path=paths["student"]),
        "teachers": {name: PolicyArgs(path=paths[name]) for name in ("math", "code") if name in paths},
        "sampling": SamplingArgs(n=3, max_new_tokens=6),
        "optimizer": sgd,
        "grader_workers": 1,
        "seed": 7,
    }
    return UniOPD(**{**settings, **options})


def trainer(tmp_path: Any, **options: Any) -> Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "log_every_n_steps": 1,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
        "default_root_dir": tmp_path,
        "use_distributed_sampler": False,
    }
    return Trainer(**{**settings, **options})


def rounding(*sums: torch.Tensor | float, steps: int = 16) -> float:
    """How far two kernels may be apart that add up the same float32 numbers: steps of the largest sum's last digit.

    Half a digit is lost for each number that is added, mostly up as often as down. An absolute limit that holds for a
    token's log-prob fails on some processors for the sum of an answer's.
    """
    return steps * torch.finfo(torch.float32).eps * max(float(torch.as_tensor(value).abs().max()) for value in sums)


def weights(module: UniOPD) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}
