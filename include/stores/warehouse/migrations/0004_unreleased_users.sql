-- Every batch looks up which of its users another batch has changed and not committed yet.
CREATE INDEX changed_users_unreleased ON pipeline.changed_users (user_id) WHERE seq IS NULL;
