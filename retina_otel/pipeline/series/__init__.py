"""Which series there are: what stands on them, which of them a table keeps, what it folds."""
