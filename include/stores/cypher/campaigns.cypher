// The campaigns of the engagements. $rows: ids, sorted.
UNWIND $rows AS id
MERGE (:Campaign {id: id})
