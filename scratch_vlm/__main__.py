"""``python -m scratch_vlm`` is the command ``scratch-vlm``."""

from scratch_vlm.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
