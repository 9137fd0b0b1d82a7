"""The book's own small Sphinx extension: what the configuration file cannot say."""

from __future__ import annotations


def setup(app):
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
