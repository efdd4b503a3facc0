"""The thesis's tables and figures as data, run and shown beside what was published. The rest does without it."""
