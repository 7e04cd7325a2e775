"""The demo: a shop's events, their way through the whole stack, and a check of what arrived.

``python -m demo`` is ``make demo``; ``python -m demo.publish_file`` is ``make publish``.
"""
