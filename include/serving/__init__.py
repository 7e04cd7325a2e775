"""The reader: recommendations over HTTP, from Redis, or from memory while Redis is away.

It has a composition root of its own (``composition``) and knows nothing of the pipeline that fills Redis but the
form of a list. ``python -m include.serving`` starts it.
"""
