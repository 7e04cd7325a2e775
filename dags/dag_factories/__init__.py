"""The tasks of each family of DAGs, and what they share: connections, retry policy, XCom values."""
