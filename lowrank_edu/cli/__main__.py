"""`python -m lowrank_edu.cli` is the same as `lowrank`."""

from . import main

if __name__ == "__main__":
    main()
