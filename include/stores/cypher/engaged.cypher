// One ENGAGED an event, and of two contents of one event the one with the higher (version, digest).
// An older content goes first, because its item may be another; a newer one, or the same, leaves the row without effect.
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
