"""From batches to snapshots: identity rows, projection, accumulators, event buffers, ledgers.

Pure numpy: no sockets, no threads of its own, no clock of its own (times come in with the calls).
"""
