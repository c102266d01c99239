"""Python beside the plugin: its golden cases, its binding and the same operator in PyTorch."""
