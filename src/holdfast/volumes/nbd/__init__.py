"""Front end: volumes over NBD, the network block device protocol, fixed newstyle."""
