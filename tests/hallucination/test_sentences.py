"""Where sentences end, which tokens end them, and where in a caption mentions stand."""

import pytest
import tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lit_uniopd.errors import UserError
from lit_uniopd.hallucination import Lexicon, coco
from lit_uniopd.hallucination.objects import is_concrete, parse_triples
from lit_uniopd.hallucination.positions import counts_by_sentence, place_mentions
from lit_uniopd.hallucination.sentences import is_unfinished, sentence_end_ids, split_sentences
from lit_uniopd.policy.chat_template import continued, encode_continuation
from lit_uniopd.types import Prompt


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("A dog. A cat.", ["A dog.", "A cat."]),
        ("It costs 3.5 dollars. Fine!", ["It costs 3.5 dollars.", "Fine!"]),
        ("Mr. Smith and Dr. Who sit. They talk.", ["Mr. Smith and Dr. Who sit.", "They talk."]),
        ('He says "stop." Then he goes.', ['He says "stop."', "Then he goes."]),
        ("Really? Yes... no.", ["Really?", "Yes...", "no."]),
        ("One.\n\nTwo", ["One.", "Two"]),
        ("e.g. a dog. J. Doe is here.", ["e.g. a dog.", "J. Doe is here."]),
        ("", []),
    ],
)
def test_sentences(text, pieces):
    sentences = split_sentences(text)
    assert [piece for piece, _ in sentences] == pieces
    assert all(text[start:].startswith(piece) for piece, start in sentences)


@pytest.mark.parametrize(
    ("text", "unfinished"),
    [
        ("A dog.", False),
        ("A dog!", False),
        ('"A dog?"', False),
        ("A dog...", False),
        ("About 3.", True),
        ("This is Mr.", True),
        ("A dog", True),
        ("", True),
    ],
)
def test_unfinished_sentences(text, unfinished):
    assert is_unfinished(text) == unfinished


def test_tokens_that_end_a_sentence():
    tokenizer = tiny.make_tokenizer(extra=('."', ".\n", "...", "!)", "a.b", " ."))
    ends = {str(tokenizer.decode([i])) for i in sentence_end_ids(tokenizer)}
    assert ends == {".", "?", "!", '."', ".\n", "...", "!)", " ."}


CONTEXTS = [
    ("describe", "a dog is here."),
    ("a dog is here. describe", "a dog is here."),
    ("how much is 3.5?", "it is 3.5 dollars."),
    ("who?", "it is mr. x."),
    ("what!", "wow!"),
    ("what?", "really?"),
    ("say", 'he says "no."'),
    ("say", "one.\ntwo."),
    ("say", ""),
]


@pytest.mark.parametrize(("question", "context"), CONTEXTS)
@pytest.mark.parametrize("extra", [(), (". a", ".\n", " a", ". ", '."'), (".a",)])
def test_the_prompt_is_a_true_prefix_of_prompt_and_sentence(question, context, extra):
    """Also where the words of the context stand in the question, and where tokens merge across the seam."""
    tokenizer = tiny.make_tokenizer(
        tiny.CHAT.replace("+ m['content'] +", "+ m['content']|string +"), extra=(*extra, '"')
    )
    prompt = continued(Prompt("p", ({"role": "user", "content": question},)), context)
    for sentence in ("a cat!", "the end?", "one more.", "quote.\n"):
        start, tokens = encode_continuation(tokenizer, prompt, sentence, {})
        again, _ = encode_continuation(tokenizer, prompt, "else.", {})
        assert start == again, "the same prefix for both sentences of a pair"
        assert tokenizer.eos_token_id not in tokens
        text = str(tokenizer.decode([*start, *tokens]))
        assert text.endswith((" " if context else "") + sentence)
        assert str(tokenizer.decode(start)).endswith(context)


@pytest.mark.parametrize("within_words", [True, False])
def test_the_prefix_is_true_for_learned_merges_too(within_words):
    """Byte-level BPE as Qwen's, and one that merges over spaces and sentence ends whatever it can."""
    tokenizer = trained_bpe(within_words)
    sentences = ["The dog sits.", "It is 3.5 m.", 'Mr. X says "no."', "Yes!\n", "Really?"]
    apart = 0
    for question in ("describe", "A dog is here. describe"):
        for context in ("A dog is here.", "It is 3.5 m.", 'Mr. X says "no."', "Really?", "Yes!", "One.\n\nTwo.", ""):
            prompt = continued(Prompt("p", ({"role": "user", "content": question},)), context)
            rows = [encode_continuation(tokenizer, prompt, sentence, {}) for sentence in sentences]
            assert len({tuple(start) for start, _ in rows}) == 1
            for (start, tokens), sentence in zip(rows, sentences, strict=True):
                text = str(tokenizer.decode([*start, *tokens]))
                assert text.endswith(context + (" " if context else "") + sentence)
                assert str(tokenizer.decode(tokens)) == (" " if context else "") + sentence
                apart += tokenizer(text, add_special_tokens=False).input_ids != [*start, *tokens]
    assert (apart == 0) == within_words, "tokens over the seam are what the second tokenizer is for"


def trained_bpe(within_words):
    text = 'A dog is here. The dog sits. It is 3.5 m. Mr. X says "no." Really? Yes!\n\nThe end.'
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=within_words)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<bos>", "<eos>", "<end>"]
    learn = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([text] * 20, learn)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")
    tokenizer.chat_template = tiny.CHAT
    return tokenizer


def test_an_empty_context_leaves_the_prompt_as_it_is():
    prompt = Prompt("p", ({"role": "user", "content": "hi"},))
    assert continued(prompt, "") is prompt
    assert continued(prompt, "So.").messages[-1] == {"role": "assistant", "content": "So."}


def test_places_of_mentions():
    text = "A dog runs. A cat and a dog sit. No bus."
    mentions = place_mentions(text, ["dog", "cat"])
    assert [(m.sentence, m.hallucinated) for m in mentions] == [(0, False), (1, False), (1, False), (2, True)]
    assert [round(m.relative * len(text)) for m in mentions] == [text.index(w) for w in ("dog", "cat")] + [24, 36]
    assert counts_by_sentence(mentions, last=2) == ([1, 2], [0, 1])
    assert place_mentions("", ["dog"]) == []


def test_a_lexicon_of_ones_own(tmp_path):
    file = tmp_path / "words.yaml"
    file.write_text("extends: coco\nclasses:\n  lamp: [lantern]\n  dog: [doggo]\nblockers: [lamp post]\n")
    lexicon = Lexicon.read(file)
    names = [name for _, name in lexicon.mentions("Two lanterns, a lamp post, a doggo, a kitten.")]
    assert names == ["lamp", "dog", "cat"]
    assert "lamp" not in coco().class_of
    file.write_text("classes: 3")
    with pytest.raises(UserError, match="is no lexicon"):
        Lexicon.read(file)


@pytest.mark.parametrize(("plural", "name"), [("wine glasses", "wine glass"), ("leaves", "leave"), ("skis", "skis")])
def test_classes_of_plurals(plural, name):
    assert coco().canonical(plural) == name


def test_triples_of_a_parser():
    text = "( cat , is , black ) , ( cat , sit on , chair )"
    assert parse_triples(text) == [["cat", "is", "black"], ["cat", "sit on", "chair"]]
    assert is_concrete("chair")
    assert not is_concrete("atmosphere")
    assert not is_concrete("happily")
