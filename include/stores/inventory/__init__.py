"""What each store of events has, in order of event id: one adapter of ``ports.Inventory`` per store."""
