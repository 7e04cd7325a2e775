-- name: get_vectors
SELECT text_hash, vector FROM pipeline.text_vectors WHERE generation = %(generation)s AND text_hash = ANY(%(hashes)s)

-- name: put_vector
INSERT INTO pipeline.text_vectors (generation, text_hash, vector) VALUES %s ON CONFLICT DO NOTHING

-- name: mark_used
UPDATE pipeline.text_vectors SET used_at = now()
WHERE generation = %(generation)s AND text_hash = ANY(%(hashes)s) AND used_at < now() - interval '1 day'

-- name: lock_texts
SELECT pg_advisory_lock(hashtextextended(%(name)s, 0))

-- name: unlock_texts
SELECT pg_advisory_unlock(hashtextextended(%(name)s, 0))
