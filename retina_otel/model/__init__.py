"""Names and meaning: signals, attribute sets, batches. No I/O, no clock, no kernel."""
