"""From the last trial to the registered model: leading trials are confirmed, the best one is registered."""
