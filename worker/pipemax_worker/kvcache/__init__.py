"""Who is where: the driver's one table of KV blocks, their slots and tiers."""
