// The next $limit events after $after, in order of event id: the index of the constraint returns them so.
MATCH (user)-[engaged:ENGAGED]->()
USING INDEX engaged:ENGAGED(event_id)
WHERE engaged.event_id > $after
RETURN engaged.event_id AS event_id, user.id AS user_id, engaged.at AS at, engaged.version AS version,
       engaged.digest AS digest
ORDER BY event_id
LIMIT $limit
