"""Python beside the plugin: its golden cases and its binding."""
