// The events with these ids, in any order.
UNWIND $ids AS id
MATCH (user)-[engaged:ENGAGED {event_id: id}]->()
RETURN engaged.event_id AS event_id, user.id AS user_id, engaged.at AS at, engaged.version AS version,
       engaged.digest AS digest
