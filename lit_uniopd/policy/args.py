"""Where a model comes from and how it is held: the options of every student, teacher and reference."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass
class LoraArgs:
    """Train low-rank adapters (peft) instead of the weights themselves."""

    rank: int = 64
    """Rank of the adapter matrices."""
    alpha: int = 128
    """Scale of the adapters: their product is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Dropout on the adapters' input while training."""
    target_modules: str | list[str] = "all-linear"
    """Names of the layers that get adapters, or `all-linear` for every linear layer but the output head."""


@dataclass
class PolicyArgs:
    """Where a model comes from and how it is held."""

    path: str = ""
    """A Hugging Face hub id, a local model directory, or `playground:student` (`math_teacher`, `code_teacher`)."""
    config: dict[str, Any] | None = None
    """A transformers config (`{model_type: qwen3, hidden_size: 64, ...}`) to build with random weights instead of
    loading any; `tokenizer` must then be given."""
    tokenizer: str | None = None
    """Hub id or directory of the tokenizer or processor, if it is not at `path`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights. `auto`: float32 for weights that are trained in full (small steps vanish in bfloat16), else
    the type they are stored in."""
    attn_implementation: str | None = None
    """Attention kernel of transformers (`sdpa`, `flash_attention_2`, `eager`); null: its own choice."""
    share_prompts: bool = True
    """Compute a prompt once for all of its answers in a batch, and no padding, where the model can and a tenth of the
    tokens is saved; needs sdpa attention. Results are the same."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    activation_offloading: bool = False
    """Keep what the layers hand on in the host's memory until the backward pass; needs `gradient_checkpointing`, and
    saves nothing on a CPU. (TRL's name.)"""
    compile: bool = False
    """Compile the parts of each layer with torch.compile, for passes with gradients; the first steps then take a minute
    more. Needs a C++ compiler on CPUs. (torchtune's name.)"""
    use_kernels: bool = False
    """Replace layers by kernels of the hub where it has some for them: transformers' option, which needs the package
    `kernels`, a GPU and the network."""
    lora: LoraArgs | None = None
    """Train adapters only; the model with its adapters off serves as the reference."""
    freeze_vision: bool = False
    """Train the language model alone: the vision tower and the projector behind it stay as they are, `lora` or not."""
    quantization: Literal["none", "8bit", "4bit"] = "none"
    """Hold frozen weights in 8 or 4 bits (bitsandbytes). A trained policy then needs `lora`."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Off: models that need it are refused."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Extra arguments of the chat template, `{enable_thinking: false}` for hybrid Qwen3 say."""
    max_pixels: int | None = None
    """Larger pictures are shrunk to so many pixels before the processor sees them; null: its own limit."""
