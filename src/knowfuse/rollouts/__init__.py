"""What does a trained target write of its own? From prompts, by chance, the same for the same seed; kept, and gone on with."""

from knowfuse.rollouts.of_run import Asked, rollouts_of
from knowfuse.rollouts.sampling import Sampling
from knowfuse.rollouts.target import saved_target
from knowfuse.rollouts.writing import Rollouts

__all__ = ["Asked", "Rollouts", "Sampling", "rollouts_of", "saved_target"]
