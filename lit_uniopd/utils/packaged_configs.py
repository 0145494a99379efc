"""The configs that come with us, by name from any directory: ``-c quickstart``, ``-c uni_opd/multi_teacher``."""

import re
from collections.abc import Sequence
from pathlib import Path

from lit_uniopd.errors import UserError
from lit_uniopd.utils.near_names import did_you_mean

_PACKAGE = Path(__file__).parents[1]


def configs_directory() -> Path:
    """Where they are: inside an installed package, beside it in a clone."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def config_names() -> list[str]:
    """The names of all, ``uni_opd/presets/mask`` say."""
    root = configs_directory()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def config_path(name: str) -> str:
    """The file that a ``-c`` means.

    Args:
        name: a path, which wins if it exists; else the name of a config that comes with us, with or without
            ``configs/`` before and ``.yaml`` behind it. A text with line breaks is a config itself.

    Raises:
        UserError: if there is neither.
    """
    if re.search(r"\n|: |[{}]", name) or Path(name).expanduser().is_file():
        return name
    known = name.removeprefix("./").removeprefix("configs/").removesuffix(".yaml")
    names = config_names()
    if known in names:
        return str(configs_directory() / f"{known}.yaml")
    within = [each for each in names if each.endswith(f"/{known}")]
    near = f" (did you mean {' or '.join(within)}?)" if within else did_you_mean(known, names)
    raise UserError(
        f"--config {name}: there is neither such a file in {Path.cwd()} nor a config of this name{near}; mend the "
        f"path, or name one of {len(names)} in {configs_directory()}, quickstart or uni_opd/multi_teacher say."
    )


def with_config_paths(argv: Sequence[str]) -> list[str]:
    """The arguments, with the files behind the names of configs.

    Args:
        argv: what stands behind ``uniopd``.

    Raises:
        UserError: if one names neither a file nor a config.
    """
    arguments: list[str] = []
    for i, arg in enumerate(argv):
        option, equals, value = arg.partition("=")
        if equals and option in ("-c", "--config"):
            arguments.append(f"{option}={config_path(value)}")
        else:
            is_config = i > 0 and argv[i - 1] in ("-c", "--config")
            arguments.append(config_path(arg) if is_config else arg)
    return arguments
