"""``uniopd`` and ``python -m lit_uniopd``."""

import sys


def main() -> None:
    """Run the command line of this process."""
    if sys.argv[1:] == ["--version"]:
        from lit_uniopd.versions import told

        print(told())
        return
    from lit_uniopd.cli import main as run

    run()


if __name__ == "__main__":
    main()
