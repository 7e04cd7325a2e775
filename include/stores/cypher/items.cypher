// The items engaged with. $rows: ids, sorted.
UNWIND $rows AS id
MERGE (:Item {id: id})
