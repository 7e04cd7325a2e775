// The number of events in the graph. Neo4j maintains this count; nothing is scanned.
MATCH ()-[engaged:ENGAGED]->()
RETURN count(engaged) AS events
