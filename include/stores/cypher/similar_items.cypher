// The items that lead most strongly from item $item, the strongest first, ties by id.
MATCH (:Item {id: $item})-[similar:SIMILAR]->(other:Item)
RETURN other.id AS item, similar.weight AS weight
ORDER BY weight DESC, item
LIMIT $limit
