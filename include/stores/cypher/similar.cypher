// Who takes to the first item is likely to take to the second. Items that nobody has engaged with have no node, and are
// left out. Returns the number of rows.
// $rows: [item, other item, weight]; $version: the ranking that they come from
UNWIND $rows AS row
MATCH (item:Item {id: row[0]})
MATCH (other:Item {id: row[1]})
MERGE (item)-[similar:SIMILAR]->(other)
SET similar.weight = row[2], similar.version = $version
RETURN count(*) AS rows
