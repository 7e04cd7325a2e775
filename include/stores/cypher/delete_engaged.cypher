// Delete the ENGAGED of these events unless a newer revision is stored. Returns their number.
// $rows: {event_id, version, digest}
UNWIND $rows AS row
MATCH ()-[old:ENGAGED {event_id: row.event_id}]->()
WHERE old.version < row.version OR (old.version = row.version AND old.digest <= row.digest)
DELETE old
RETURN count(*) AS deleted
