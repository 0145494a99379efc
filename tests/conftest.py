"""Fixtures: tiny models, and a process that is left as it was found."""

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from first_run import FirstRun, first_run
from hypothesis import settings
from PIL import Image
from scenes_data import captioner
from serving import ModelServers
from tiny import make_model

from lit_uniopd.errors import UserError
from lit_uniopd.sampling import engine_vllm_server
from lit_uniopd.utils import http


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all but every n-th case of a test that is ``thinned(n)`` as exhaustive."""
    case_counts = Counter[str]()
    for item in items:
        if (thinned := item.get_closest_marker("thinned")) is not None:
            name = item.nodeid.partition("[")[0]
            if case_counts[name] % thinned.args[0]:
                item.add_marker("exhaustive")
            case_counts[name] += 1


settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _messages_name_flags() -> Iterator[None]:
    """Wherever a test stands, messages are those of the command line; tests/test_errors.py has those of Python."""
    UserError.on_command_line = True
    yield
    UserError.on_command_line = False


@pytest.fixture(scope="session")
def model_dirs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Three models of one family: a student and two teachers."""
    root = tmp_path_factory.mktemp("models")
    return {name: str(make_model(root / name, seed=i)) for i, name in enumerate(["student", "math", "code"])}


@pytest.fixture(scope="session")
def common(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of all processes of this session; what takes long is made in it once, under a lock."""
    directory = tmp_path_factory.getbasetemp()
    return directory.parent if "PYTEST_XDIST_WORKER" in os.environ else directory


@pytest.fixture(scope="session")
def quickstart(common: Path) -> FirstRun:
    """The quickstart's run and its playground."""
    with FileLock(common / "first_run.lock"):
        return first_run(common)


@pytest.fixture(scope="module")
def scenes(common: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a small captioner's directory, with its pictures."""
    with FileLock(common / "captioner.lock"):
        made = captioner(common / "scenes").parent
    return Path(shutil.copytree(made, tmp_path_factory.mktemp("playground") / made.name))


@pytest.fixture
def new_model(tmp_path: Path) -> Callable[..., str]:
    """Make another model with given properties."""
    return lambda name="model", **options: str(make_model(tmp_path / name, **options))


@pytest.fixture(scope="session")
def served(model_dirs: dict[str, str]) -> Iterator[ModelServers]:
    """A server process with those models behind it, the math teacher twice."""
    http = ModelServers([("student", model_dirs["student"]), *[("math", model_dirs["math"])] * 2])
    yield http
    http.close()


@pytest.fixture
def model_servers(served: ModelServers) -> Iterator[ModelServers]:
    """The servers, which behave well until told otherwise."""
    yield served
    served.behave()


@pytest.fixture(scope="session")
def trained(model_dirs: dict[str, str]) -> Iterator[ModelServers]:
    """Two servers of the student that take new weights."""
    http = ModelServers([("student", model_dirs["student"])] * 2, "rollout_server.py")
    yield http
    http.close()


@pytest.fixture
def rollout_servers(trained: ModelServers, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelServers]:
    """Those servers as if they had just been started, and a trainer that has never seen them and waits briefly."""
    engine_vllm_server._pool.cache_clear()
    trained.behave()
    for url in trained.all:
        trained.tell(url, "/restart", {})
    trained.behave()
    monkeypatch.setattr(engine_vllm_server, "PAUSE_S", 0.05)
    monkeypatch.setattr(http, "PAUSE_S", 0.05)
    yield trained
    trained.behave()


@pytest.fixture(scope="session")
def odd_pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files that trip readers up: of 16 bits, with alpha or a palette with it, turned by EXIF, a pixel wide, animated."""
    directory = tmp_path_factory.mktemp("odd")
    noise = Image.effect_noise((40, 30), 90)
    turned = Image.Exif()
    turned[0x0112] = 6
    depth = Image.frombytes("I;16", (40, 30), bytes(range(256)) * 9 + bytes(96))
    saved = {
        "la.png": (noise.convert("LA"), {}),
        "pa.png": (noise.convert("RGBA").quantize(16), {}),
        "i16.png": (depth, {}),
        "i16.tif": (depth, {}),
        "cmyk.tif": (noise.convert("CMYK"), {}),
        "turned.jpg": (noise.convert("RGB"), {"exif": turned}),
        "moving.gif": (noise.convert("P"), {"save_all": True, "append_images": [noise.convert("P")]}),
        "pixel.png": (noise.crop((0, 0, 1, 1)), {}),
        "high.png": (noise.resize((1, 300)), {}),
        "broad.webp": (noise.resize((400, 1)), {}),
    }
    for name, (picture, options) in saved.items():
        picture.save(directory / name, **options)
    return {name: str(directory / name) for name in saved}


@pytest.fixture(autouse=True)
def restored_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Seeds, threads, default dtype and the environment do not leak from test to test."""
    environment = dict(os.environ)
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    yield
    random.setstate(python_state)
    np.random.set_state(numpy_state)
    torch.set_rng_state(torch_state)
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    os.environ.clear()
    os.environ.update(environment)
