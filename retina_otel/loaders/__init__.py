"""From a BPF object to `Loaded`: typed map and program descriptors, whoever loaded them."""
