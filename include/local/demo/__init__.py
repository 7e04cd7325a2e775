"""The demo: a shop's events, their way through the whole stack, and a check of what arrived.

``python -m include.local.demo`` is ``make demo``; ``python -m include.local.publish`` is ``make publish``.
"""
