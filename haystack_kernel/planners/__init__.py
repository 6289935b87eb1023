"""Planners understand a question, choose candidates and put the result into words; they never set a score."""
