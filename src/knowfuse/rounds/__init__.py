"""How does a target learn from what it writes itself? Round after round: train, write, let the sources read it, train on."""

from knowfuse.rounds.line import Writing, round_sampling, rounds

__all__ = ["Writing", "round_sampling", "rounds"]
