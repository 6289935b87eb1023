"""HAYSTACK as tools for any assistant: over the Model Context Protocol, and inside JupyterLab.

In: calls of an assistant. Out: compact JSON values; nothing is started without the approval of the person who uses it.
"""
