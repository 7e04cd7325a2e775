// One ENGAGED per event; of two revisions of one event the higher (version, digest) wins (include/domain/precedence.py).
// An older revision is deleted first, because it may belong to another item. If the stored revision is newer or the same,
// the row has no effect.
// $rows: [event_id, user, item or null, kind, at, weight, version, digest], each event once.
UNWIND $rows AS row
OPTIONAL MATCH ()-[old:ENGAGED {event_id: row[0]}]->()
WITH row, old
WHERE old IS NULL OR old.version < row[6] OR (old.version = row[6] AND old.digest < row[7])
DELETE old
WITH row
WHERE row[2] IS NOT NULL
MATCH (user:User {id: row[1]})
MATCH (item:Item {id: row[2]})
CREATE (user)-[:ENGAGED {
  event_id: row[0], kind: row[3], at: row[4], weight: row[5], version: row[6], digest: row[7]
}]->(item)
