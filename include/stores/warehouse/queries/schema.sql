-- name: lock_schema
SELECT pg_advisory_lock(hashtextextended('millrace schema', 0))

-- name: unlock_schema
SELECT pg_advisory_unlock(hashtextextended('millrace schema', 0))

-- name: find_schema
SELECT to_regclass('pipeline.schema_version')

-- name: schema_version
SELECT coalesce(max(version), 0) FROM pipeline.schema_version

-- name: record_migration
INSERT INTO pipeline.schema_version (version) VALUES (%(version)s)
