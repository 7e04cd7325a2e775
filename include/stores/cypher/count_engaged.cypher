// How many events the graph holds. Neo4j keeps this count; nothing is scanned.
MATCH ()-[engaged:ENGAGED]->()
RETURN count(engaged) AS events
