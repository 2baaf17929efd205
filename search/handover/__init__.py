"""From the last trial to the model to register: whether the leading trials are as good as they look."""
