// Create missing items. $rows: ids, sorted.
UNWIND $rows AS id
MERGE (:Item {id: id})
