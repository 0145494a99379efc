"""SENTINEL's data as a prediction run: pictures in, sentence pairs out."""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lit_uniopd.distributed.preemption import interruptible
from lit_uniopd.errors import UserError
from lit_uniopd.hallucination.bootstrap import BootstrapArgs, Bootstrapper, Caption
from lit_uniopd.hallucination.detectors import Detector
from lit_uniopd.hallucination.lexicon import Lexicon
from lit_uniopd.hallucination.objects import ObjectExtractor, SceneGraphParser
from lit_uniopd.hallucination.writer import PolicyWriter
from lit_uniopd.modules.base import PolicyModule
from lit_uniopd.policy.args import PolicyArgs
from lit_uniopd.sampling.args import SamplingArgs
from lit_uniopd.types import Prompt, PromptBatch

log = logging.getLogger(__name__)


class SentenceBootstrap(PolicyModule):
    """Grow captions sentence by sentence, and keep factual and hallucinated candidates as pairs.

    All pictures of a batch grow side by side. Its callback is ``callbacks.SentencePairWriter``, which is called with
    each finished caption (``on_caption_finished(trainer, pl_module, caption)``).

    Args:
        policy: the model that the pairs are for; it writes the candidates.
        detectors: that vote on objects; one of `lit_uniopd.hallucination.detectors`, or your own.
        lexicon: words for objects: coco (COCO's 80 classes), chair (fewer words for them), chair_robust (these words,
            but not where a sentence denies them), released_code, or a YAML file; null: coco.
        scene_graph: a parser that finds objects which the lexicon does not have; null: the lexicon alone.
        bootstrap: the choices in which paper and released code differ.
        sampling: of the candidates for a sentence; null: ten at temperature 0.7, as released.
        seed: of the sampling; null: that of `--seed_everything`, else 0.
        lexicon_finds: whether the lexicon finds objects too; false: the scene-graph parser alone, as in the paper, and
            the lexicon only names the classes of what it finds.
    """

    def __init__(
        self,
        policy: PolicyArgs,
        detectors: list[Detector],
        lexicon: str | None = None,
        scene_graph: SceneGraphParser | None = None,
        bootstrap: BootstrapArgs = BootstrapArgs(),  # noqa: B008  # never mutated
        sampling: SamplingArgs | None = None,
        seed: int | None = None,
        lexicon_finds: bool = True,
    ) -> None:
        super().__init__(policy, flag="model.policy", seed=seed, val_sampling=sampling or released_sampling())
        if not detectors:
            raise UserError("--model.detectors is empty; name at least one of lit_uniopd.hallucination.detectors.")
        if scene_graph is None and not lexicon_finds:
            raise UserError(
                "--model.lexicon_finds false leaves nothing that finds objects; name a parser by --model.scene_graph."
            )
        self.detectors = detectors
        self.bootstrap = bootstrap
        words = Lexicon.read(lexicon or "coco")
        self.extract = ObjectExtractor(words, scene_graph, lexicon_finds=lexicon_finds)
        self._extraction = {
            "lexicon": lexicon,
            "reading": words.reading,
            "lexicon_finds": lexicon_finds,
            "scene_graph": None if scene_graph is None else scene_graph.path,
        }

    def setup(self, stage: str) -> None:
        super().setup(stage)
        for prompt in self.trainer_data.prompts("predict"):
            if len(prompt.images) != 1 or not isinstance(prompt.images[0], str):
                raise UserError(
                    f"Prompt {prompt.id!r} must have one picture in a file, not {len(prompt.images)}; name its path in "
                    "the column that --data.predict.images_column names."
                )

    def configure_model(self) -> None:
        if self.policy is None:
            # What is small is tried first.
            for model in (*self.detectors, self.extract):
                model.prepare(self.device)
            self.policy = self.load(self.policy_args, self.policy_flag)
            if self.policy.processor is self.policy.tokenizer:
                raise UserError(
                    f"--{self.policy_flag}.path {self.policy_args.path} is a text model, which cannot see pictures; "
                    "give an image-text model."
                )
            self.shard(self.policy)

    @property
    def settings(self) -> str:
        """Names what the captions depend on beside the picture and the question."""
        settings: list[Any] = [self.policy_args, asdict(self.val_sampling), asdict(self.bootstrap)]
        settings += [self._extraction, self.seed]
        settings += [(type(detector).__name__, detector.settings) for detector in self.detectors]
        return hashlib.blake2b(repr(settings).encode(), digest_size=8).hexdigest()

    def predict_step(self, batch: PromptBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Bootstrap a batch of pictures; callbacks are told of each caption."""
        with interruptible(self.trainer, gathers=True):
            self.grow(batch.prompts)

    def grow(self, prompts: Sequence[Prompt]) -> list[Caption]:
        """Bootstrap pictures to their ends, side by side; those that cannot be read are skipped and told of."""
        readable = [prompt for prompt in prompts if self._is_readable(prompt)]
        bootstrapper = Bootstrapper(
            PolicyWriter(self.policy, self.val_sampling, self.seed),
            self.detectors,
            self.extract,
            self.bootstrap,
            seed=self.seed,
        )
        return bootstrapper.run(readable, on_finished=self._on_caption)

    def _is_readable(self, prompt: Prompt) -> bool:
        try:
            self.policy.encode(prompt)
        except UserError as error:
            log.warning("Skipped: %s", error)
            self._call("on_picture_skipped", prompt, str(error))
            return False
        return True

    def _on_caption(self, caption: Caption) -> None:
        self._call("on_caption_finished", caption)

    def _call(self, hook: str, *arguments: Any) -> None:
        for callback in getattr(self.trainer, "callbacks", ()):
            if (method := getattr(callback, hook, None)) is not None:
                method(self.trainer, self, *arguments)


def released_sampling() -> SamplingArgs:
    """Ten candidates at temperature 0.7, as in the released code; the paper gives no numbers."""
    return SamplingArgs(n=10, max_new_tokens=512, temperature=0.7, top_p=1.0, top_k=0)
