"""What the warehouse holds, one file a purpose; every statement is in queries.sql under its name."""
