"""The local stack: every server as a process from PyPI or Maven Central, under one supervisor.

``python -m stack up`` starts it; tests and the demo use ``Stack`` and ``LocalConfig`` directly.
"""
