"""The demo: feed a shop's events through the whole stack and check the results.

``python -m demo`` is ``make demo``; ``python -m demo.publish FILE`` is ``make publish``.
"""
