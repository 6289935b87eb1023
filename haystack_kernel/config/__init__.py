"""Configuration: settings read once, run options checked, ports connected, changes since a run began."""
