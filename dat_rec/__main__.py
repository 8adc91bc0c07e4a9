"""``python -m dat_rec`` is ``dat-rec``."""

from dat_rec.cli import main

if __name__ == "__main__":
    main()
