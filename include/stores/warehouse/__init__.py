"""The warehouse, one file per purpose. Every statement is in queries.sql, under its name."""
