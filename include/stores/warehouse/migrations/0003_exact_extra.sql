-- jsonb rewrites numbers and reorders names; staging passes stored contents on, and they must be what they were.
ALTER TABLE events ALTER COLUMN extra TYPE json USING extra::text::json;
