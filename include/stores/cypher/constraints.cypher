// These make MERGE safe under concurrency, and every lookup an index seek. Each statement may run again.
CREATE CONSTRAINT user_id IF NOT EXISTS FOR (user:User) REQUIRE user.id IS UNIQUE;
CREATE CONSTRAINT item_id IF NOT EXISTS FOR (item:Item) REQUIRE item.id IS UNIQUE;
CREATE CONSTRAINT campaign_id IF NOT EXISTS FOR (campaign:Campaign) REQUIRE campaign.id IS UNIQUE;
CREATE CONSTRAINT engaged_event_id IF NOT EXISTS FOR ()-[engaged:ENGAGED]-() REQUIRE engaged.event_id IS UNIQUE;
