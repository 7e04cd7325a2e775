// The users with an engagement. $rows: ids, sorted, so that two writers take the locks in one order.
UNWIND $rows AS id
MERGE (:User {id: id})
