"""The warehouse, one file per purpose. Every statement is in queries/, under its name."""
