"""The embedding server: one process that keeps the model loaded and serves it over the OpenAI embeddings protocol.

It shares no code with the pipeline except the error types and the settings parser, so any other server of that
protocol can replace it by a change of settings.
"""
