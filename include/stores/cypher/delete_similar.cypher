// Delete a slice of the SIMILAR of other rankings than $version. Returns their number.
MATCH ()-[similar:SIMILAR]->()
WHERE similar.version <> $version
WITH similar LIMIT $limit
DELETE similar
RETURN count(*) AS rows
