"""From a job to an open run: the job's file, its model, its task, its data, and what they come to on a ledger."""
