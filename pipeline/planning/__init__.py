"""From retention to a plan: where a model is cut."""
