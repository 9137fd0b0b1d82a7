"""The parts of `lo.check`: comparing, diagnosis (how answers differ), sandbox (running them), judging."""
