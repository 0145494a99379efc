"""Hashes of prompts and decoding settings."""

import hashlib
from dataclasses import asdict
from typing import Any

from lit_uniopd.benchmarks.records import content_hash
from lit_uniopd.benchmarks.spec import Example, Generation
from lit_uniopd.utils.seeding import derive_seed


def prompt_hash(example: Example, chat: Any) -> str:
    """Hash of the messages, the images and the chat template's arguments."""
    return content_hash(example.chat, [image_hash(image) for image in example.images], chat)


def image_hash(image: Any) -> str:
    """A path as it is, embedded pictures by their bytes, loaded ones by their pixels."""
    if isinstance(image, str):
        return image
    return hashlib.sha256(image if isinstance(image, bytes) else image.tobytes()).hexdigest()[:16]


def generation_hash(generation: Generation, seed: int, engine: str) -> str:
    """Hash of the decoding settings; greedy answers depend neither on seed nor on engine."""
    return content_hash(asdict(generation), (seed, engine) if generation.temperature > 0 else None)


def noise_key(benchmark: str, sample_id: str) -> int:
    """Key of the sampling noise of one row: the same on every rank and in every batch."""
    return derive_seed(0, benchmark, sample_id)
