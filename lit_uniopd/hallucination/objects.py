"""Which objects a sentence names: by the lexicon, by a scene-graph parser, or by both."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from lit_uniopd.errors import UserError, first_line
from lit_uniopd.hallucination.lexicon import Lexicon, coco, noun_lemmas

Triple = Sequence[str]
"""Subject, predicate, object."""

ABSTRACT = frozenset(
    [
        "atmosphere",
        "scene",
        "touch",
        "elegance",
        "ambiance",
        "mood",
        "view",
        "image",
        "picture",
        "photo",
        "background",
        "foreground",
        "side",
        "front",
        "back",
        "top",
        "bottom",
        "left",
        "right",
        "middle",
        "center",
        "centre",
        "corner",
        "edge",
        "area",
        "space",
        "distance",
        "time",
        "day",
        "night",
        "moment",
        "type",
        "kind",
        "style",
        "color",
        "colour",
        "shape",
        "size",
        "number",
        "group",
        "pair",
        "variety",
        "feeling",
        "sense",
        "appearance",
        "activity",
        "event",
        "position",
        "direction",
        "way",
        "part",
        "piece",
        "lot",
        "focus",
        "composition",
        "setting",
        "environment",
        "addition",
        "detail",
        "design",
        "pattern",
        "light",
        "lighting",
        "weather",
    ]
)
"""Nouns that do not name an object to look for."""

_TRIPLE = re.compile(r"\(([^()]*)\)")


def is_concrete(word: str) -> bool:
    """Whether a word is a noun, by lemminflect's dictionary, and not in `ABSTRACT`."""
    from lemminflect import getAllLemmas

    return bool(getAllLemmas(word, upos="NOUN")) and noun_lemmas(word)[0] not in ABSTRACT


def objects_of_triples(triples: Sequence[Triple], keep: Callable[[str], bool] = is_concrete) -> list[str]:
    """Entities of a scene graph, each once (released ``run/utils.py``).

    Args:
        triples: (subject, predicate, object); others are ignored. ``is`` and ``are`` name an attribute, not an object.
        keep: whether a word is a concrete noun. A word is kept in the singular, a phrase whole if one of its words is
            such a noun and not among the entities so far.
    """
    noun = lambda word: next((form for form in noun_lemmas(word) if keep(form)), None)  # noqa: E731
    entities: dict[str, None] = {}
    for triple in triples:
        if len(triple) != 3:
            continue
        subject, predicate, target = (term.strip().lower() for term in triple)
        for entity in (subject,) if predicate in ("is", "are") else (subject, target):
            nouns = [name for word in entity.split() if (name := noun(word)) is not None and name not in entities]
            if nouns:
                entities.setdefault(entity if " " in entity else nouns[0])
    return list(entities)


def parse_triples(text: str) -> list[list[str]]:
    """Triples from a scene-graph parser's output: ``( cat , sit on , chair ) , ( cat , is , black )``."""
    return [[term.strip() for term in inner.split(",")] for inner in _TRIPLE.findall(text)]


class SceneGraphParser:
    """A seq2seq model that writes the triples of a sentence.

    Args:
        path: hub id or directory; the released code's is the default.
        prefix: what its training put before each sentence.
        max_new_tokens: longest graph.
        batch_size: sentences at a time.
    """

    def __init__(
        self,
        path: str = "lizhuang144/flan-t5-base-VG-factual-sg",
        prefix: str = "Generate Scene Graph: ",
        max_new_tokens: int = 200,
        batch_size: int = 64,
    ) -> None:
        self.path, self.prefix, self.max_new_tokens, self.batch_size = path, prefix, max_new_tokens, batch_size
        self.model: Any = None
        self.tokenizer: Any = None

    def prepare(self, device: torch.device | str) -> None:
        """Load the model.

        Raises:
            UserError: if it cannot be loaded.
        """
        if self.model is None:
            try:
                self.model = AutoModelForSeq2SeqLM.from_pretrained(self.path, use_safetensors=True)
                self.tokenizer = AutoTokenizer.from_pretrained(self.path)
            except (OSError, ValueError, KeyError) as error:
                raise UserError(
                    f"SceneGraphParser.path {self.path} cannot be loaded ({first_line(error)}); "
                    "give a hub id or a model directory."
                ) from error
            self.model.to(device).requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(self, sentences: Sequence[str]) -> list[list[list[str]]]:
        """The triples of each sentence."""
        self.prepare("cpu")
        graphs: list[list[list[str]]] = []
        for start in range(0, len(sentences), self.batch_size):
            texts = [self.prefix + sentence for sentence in sentences[start : start + self.batch_size]]
            inputs = self.tokenizer(texts, return_tensors="pt", padding=True, truncation=True).to(self.model.device)
            out = self.model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self.max_new_tokens)
            graphs += map(parse_triples, self.tokenizer.batch_decode(out, skip_special_tokens=True))
        return graphs


class ObjectExtractor:
    """Names of objects in sentences.

    Args:
        lexicon: words for objects. None: COCO's.
        scene_graph: adds the entities that the lexicon does not have, so that the vocabulary is open.
        lexicon_finds: False: the parser alone finds objects, as in the paper; the lexicon only names their classes.

    Raises:
        ValueError: if nothing finds objects.
    """

    def __init__(
        self,
        lexicon: Lexicon | None = None,
        scene_graph: SceneGraphParser | None = None,
        *,
        lexicon_finds: bool = True,
    ) -> None:
        if scene_graph is None and not lexicon_finds:
            raise ValueError("scene_graph must be given where lexicon_finds is False")
        self.lexicon = lexicon or coco()
        self.scene_graph, self.lexicon_finds = scene_graph, lexicon_finds

    def prepare(self, device: torch.device | str) -> None:
        """Load the scene-graph parser, if there is one."""
        if self.scene_graph is not None:
            self.scene_graph.prepare(device)

    def canonical(self, word: str) -> str:
        """The class of a word."""
        return self.lexicon.canonical(word)

    def __call__(self, sentences: Sequence[str]) -> list[list[str]]:
        """Words for objects in each sentence, in the singular, each once."""
        rows: list[list[str]] = [[] for _ in sentences]
        if self.lexicon_finds:
            rows = [[word for word, _ in self.lexicon.mentions(sentence)] for sentence in sentences]
        if self.scene_graph is not None and sentences:
            graphs = self.scene_graph(sentences)
            rows = [[*words, *objects_of_triples(graph)] for words, graph in zip(rows, graphs, strict=True)]
        return [list(dict.fromkeys(words)) for words in rows]
