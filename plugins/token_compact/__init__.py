"""Python beside the plugin: its golden cases."""
