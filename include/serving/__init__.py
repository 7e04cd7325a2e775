"""The reader: serves recommendations over HTTP from Redis, and from memory while Redis is unavailable.

It has its own composition root (``composition``). All it shares with the pipeline is the format of a recommendation
list. ``python -m include.serving`` starts it.
"""
