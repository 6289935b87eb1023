"""Campaigns: many predictions as one job, in a folder of their own, resumed by the same call.

Read ``kind`` (what a kind of campaign does to each of its items), ``folder`` (where its files are), ``pool`` and
``worker`` (several processes that share a step), ``predict`` (all predictions as one batch of tasks). Back-tests and
screens are kinds of campaigns.
"""
