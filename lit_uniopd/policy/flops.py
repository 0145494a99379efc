"""Floating-point operations of a model's passes, by the usual formula: two for each weight and token, plus attention.

What is counted is what the result needs: not what checkpointing computes again, padding, or a prompt that is read once
for each of its answers.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from lit_uniopd.policy.backbone import head_of, layer_configs, layers_of, unwrap


@dataclass(frozen=True)
class Passes:
    """Forward passes over some rows."""

    tokens: int = 0
    """Tokens that are read or written."""
    predicted: int = 0
    """Those of them whose next-token distribution is needed."""
    attended: int = 0
    """Positions that these tokens look at, each at its own and those before it."""

    @classmethod
    def over(cls, prompts: Iterable[int], answers: Iterable[tuple[int, int]]) -> "Passes":
        """Passes over prompts, each once, and their answers.

        Args:
            prompts: tokens of each.
            answers: tokens of each answer's prompt, and of the answer.

        Example:
            >>> Passes.over([3], [(3, 2), (3, 1)])
            Passes(tokens=6, predicted=3, attended=19)
        """
        prompts, answers = list(prompts), list(answers)
        written = sum(answer for _, answer in answers)
        attended = sum(prompt * (prompt + 1) // 2 for prompt in prompts)
        attended += sum(answer * prompt + answer * (answer + 1) // 2 for prompt, answer in answers)
        return cls(sum(prompts) + written, written, attended)


@dataclass(frozen=True)
class Work:
    """What passes of a model cost."""

    weights: int
    """In a token's matrix products, without the output head; of a mixture, in the experts that it visits."""
    head: int
    """Weights of the output head."""
    queries: int
    """Heads times their width, summed over layers."""
    trains_weights: bool
    """And not adapters, which are left out as small."""

    def forward(self, passes: Passes) -> int:
        """Operations of forward passes. Sliding windows count as full attention."""
        return self._products(passes) + self._attention(passes)

    def update(self, passes: Passes) -> int:
        """Operations of forward and backward passes.

        Backwards there is a product for the input of each product, of which attention has two for each, and one for
        each weight that is trained.
        """
        return (2 + self.trains_weights) * self._products(passes) + 3 * self._attention(passes)

    def _products(self, passes: Passes) -> int:
        return 2 * (self.weights * passes.tokens + self.head * passes.predicted)

    def _attention(self, passes: Passes) -> int:
        return 4 * self.queries * passes.attended  # scores, and the sum that they weigh


def work_of(model: nn.Module) -> Work:
    """Read a model, loaded or on the meta device, sharded, quantised or not. Of an image-text model, its text part."""
    base: Any = unwrap(model)
    config: Any = base.config.get_text_config(decoder=True)
    layers, configs = layers_of(model), layer_configs(config)
    configs = configs if len(configs) == len(layers) else configs[:1] * len(layers)
    matrices = [matrix for layer in layers for matrix in _matrices(layer, _visited_share(config))]
    return Work(
        weights=sum(size for size, _ in matrices),
        head=head_of(model).weight_VH.numel(),
        queries=sum(_query_width(each) for each in configs),
        trains_weights=any(trained for _, trained in matrices),
    )


def _matrices(layer: nn.Module, visited: float) -> Iterator[tuple[int, bool]]:
    """Weights that a token meets in each of a layer's matrices, and whether they are trained."""
    for path, module in layer.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            place = f".{path}.{name}"
            if parameter.dim() < 2 or ".lora_" in place:
                continue
            size = parameter.numel()
            if name == "weight" and isinstance(module, nn.Linear):  # whose quantised weights are packed
                size = module.in_features * module.out_features
            yield int(size * visited) if ".experts." in place else size, parameter.requires_grad


def _visited_share(config: Any) -> float:
    """Of a mixture's experts, the share that a token visits."""
    names = ("num_experts", "num_local_experts", "n_routed_experts")
    experts = next((getattr(config, name) for name in names if getattr(config, name, None)), 0)
    return (getattr(config, "num_experts_per_tok", None) or experts) / experts if experts else 1.0


def _query_width(config: Any) -> int:
    heads = getattr(config, "num_attention_heads", None) or 1
    return heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
