"""``uniopd`` and ``python -m lit_uniopd``."""

from lit_uniopd.cli import main

if __name__ == "__main__":
    main()
