"""Campaigns: many questions asked as one job, and judged as one table.

Read ``rank`` (which rows of the table count, and how many of them are false).
"""
