"""Studies as they lie in a store: records, event log, lease, index, summaries, stage cache and deletion."""
