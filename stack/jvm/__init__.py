"""The two servers that run inside a Python process, because their jars have no main class."""
