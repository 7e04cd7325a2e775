// Record that some event named this item in this campaign. $rows: [item, campaign], sorted, each pair once.
// The relationship is never removed: when an event is corrected to another campaign, the old pair stays.
UNWIND $rows AS row
MATCH (item:Item {id: row[0]})
MATCH (campaign:Campaign {id: row[1]})
MERGE (item)-[:IN]->(campaign)
