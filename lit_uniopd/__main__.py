"""``uniopd`` and ``python -m lit_uniopd``."""

import os
import sys


def main() -> None:
    """Run the command line of this process."""
    find_own_modules()
    if sys.argv[1:] == ["--version"]:
        from lit_uniopd.utils.versions import versions_text

        print(versions_text())
        return
    from lit_uniopd.cli.entry_point import main as run

    run()


def find_own_modules() -> None:
    """Let `--model my_file.MyModule` find `my_file.py` in the working directory.

    At the end of the path, where `python -m` has it at the beginning: a file there takes the place of no installed
    package, whatever it is called.
    """
    here = os.getcwd()
    if sys.flags.safe_path:
        return
    if sys.path[:1] in ([""], [here]):
        sys.path.append(sys.path.pop(0))
    elif not {"", here} & set(sys.path):
        sys.path.append(here)


if __name__ == "__main__":
    main()
