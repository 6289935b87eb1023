"""The six search strategies and what they share: one module each, the same interface."""
