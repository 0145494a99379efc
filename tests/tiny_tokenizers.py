"""Tokenizers of the kinds that models have, small: byte-level BPE, SentencePiece with bytes to fall back on, Unigram, WordPiece."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<bos>", "<eos>", "<end>", "<unk>"]
TURNS = (
    "{% for m in messages %}{{ '<bos>' + m['role'][0] + ':' + m['content'] + '<end>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<bos>' }}{% endif %}"
)
CORPUS = [
    "the answer is the sum of the numbers",
    "therefore it is 12, and then 144.\n\nSo the answer",
    "你好 世界 你好",
]
WORDS = ["th", "the", "he", "an", "in", "er", "answer", "\u2581the", "\u2581is", "\u2581a", "\u2581", "12", "你"]
LETTERS = "abcdefghijklmnopqrstuvwxyzT0123456789.,:?!+=\n你好"


def _wrapped(backend: Tokenizer) -> PreTrainedTokenizerFast:
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False, **names)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<end>"]})
    tokenizer.chat_template = TURNS
    return tokenizer


def byte_level(size: int = 300) -> PreTrainedTokenizerFast:
    """As GPT-2's: any bytes, in pieces learned from a few sentences."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"initial_alphabet": alphabet, "special_tokens": SPECIAL, "show_progress": False}
    backend.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, **options))  # type: ignore[arg-type]
    return _wrapped(backend)


def sentencepiece(*, prepends: bool = False) -> PreTrainedTokenizerFast:
    """As Gemma's, with a byte of its own for what it has no piece for; or as Llama 2's, which puts a space first."""
    pieces = [
        *SPECIAL,
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *LETTERS,
        *WORDS,
        "\u2581t",
        "\u2581th",
        "answe",
        "answ",
        "ans",
    ]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    merges = [("t", "h"), ("h", "e"), ("th", "e"), ("a", "n"), ("i", "n"), ("e", "r"), ("an", "s"), ("ans", "w")]
    merges += [("answ", "er"), ("\u2581", "the"), ("\u2581", "a"), ("1", "2")]
    backend = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>"))
    spaces = normalizers.Replace(" ", "\u2581")
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), spaces]) if prepends else spaces
    backend.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _wrapped(backend)


def unigram() -> PreTrainedTokenizerFast:
    """As T5's: a space before every text, and nothing for what it has no piece for."""
    pieces = [*[(token, 0.0) for token in SPECIAL], *[(letter, -6.0) for letter in LETTERS if letter != "\n"]]
    pieces += [(word, -3.0) for word in WORDS if word != "你"]
    backend = Tokenizer(models.Unigram(pieces, unk_id=SPECIAL.index("<unk>")))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    backend.decoder = decoders.Metaspace(prepend_scheme="first")
    return _wrapped(backend)


def word_piece() -> PreTrainedTokenizerFast:
    """As BERT's: its tokens do not say whether a space stood before them."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS)])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    return _wrapped(backend)
