"""Where bytes live: layout, identity, completion, shards, arrays, tables."""
