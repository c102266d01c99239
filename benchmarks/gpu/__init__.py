"""The kit for a GPU machine that reaches no network and is lent for a short time; see benchmarks/README.md."""
