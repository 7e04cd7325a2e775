"""The local stack: every server as a process of its own, from PyPI and Maven Central, under one supervisor.

``python -m stack up`` starts it; tests and the demo use ``Stack`` and ``LocalConfig`` directly.
"""
