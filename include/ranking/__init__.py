"""The learned ranking: pure functions on arrays. Nothing here knows a store."""
