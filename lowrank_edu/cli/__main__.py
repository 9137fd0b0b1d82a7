"""`python -m lowrank_edu.cli`, for `accelerate launch -m lowrank_edu.cli` and `torchrun -m lowrank_edu.cli`."""

from .app import main

if __name__ == "__main__":
    main()
