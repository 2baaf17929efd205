"""The promotion gate: whether a version may carry an alias, who carried it before, and the way back."""

from search.promotion.conditions import Conditions
from search.promotion.promote import Promotion, moves, promote, rollback

__all__ = ["Conditions", "Promotion", "moves", "promote", "rollback"]
