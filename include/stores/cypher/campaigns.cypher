// Create missing campaigns. $rows: ids, sorted.
UNWIND $rows AS id
MERGE (:Campaign {id: id})
