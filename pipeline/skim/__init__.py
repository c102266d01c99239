"""From a fine-tuned model to a checked artifact: the sets, the work so far, and what it came to."""
