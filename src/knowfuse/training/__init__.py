"""How does the target learn? Blocks of documents, batches, the module, one fit that can be stopped anywhere."""
