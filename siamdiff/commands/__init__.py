"""The commands of `python -m siamdiff`, one a module: `add` describes it, the parser's `run` runs it."""
