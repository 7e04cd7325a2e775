// Create missing users. $rows: ids, sorted, so that concurrent writers take their locks in the same order.
UNWIND $rows AS id
MERGE (:User {id: id})
