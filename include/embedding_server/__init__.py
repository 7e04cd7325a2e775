"""The embedding server: the model in a process of its own, warm, behind the OpenAI embeddings protocol.

It runs apart from the pipeline and shares no code with it but the error types, so that any other server of that
protocol can take its place by a setting.
"""
