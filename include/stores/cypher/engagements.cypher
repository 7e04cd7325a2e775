// The latest $limit items of each of $users, ties by id: one row per user with an engagement, as parallel lists.
UNWIND $users AS id
MATCH (user:User {id: id})
CALL (user) {
  MATCH (user)-[engaged:ENGAGED]->(item:Item)
  WITH item.id AS item, max(engaged.at) AS at, max(engaged.weight) AS weight
  ORDER BY at DESC, item
  LIMIT $limit
  RETURN collect(item) AS items, collect(at) AS times, collect(weight) AS weights
}
RETURN id, items, times, weights
