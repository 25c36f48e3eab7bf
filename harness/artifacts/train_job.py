"""The training job: its artifacts in order, what they are computed from and mean, what can be swapped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.artifacts.kind import JobKind, Made, Meaning, Replay

if TYPE_CHECKING:
    from harness.artifacts.source import ArtifactSource


def _meaning(a: ArtifactSource, b: ArtifactSource) -> Meaning:
    from harness.artifacts.train_meaning import TrainMeaning

    return TrainMeaning(TRAIN, a, b)


def _parameters(name: str, step: str, *inputs: str) -> tuple[Made, Made]:
    """What each parameter has at each step, as digests; and in steps that were chosen, the numbers of all of them."""
    return (
        Made(name, step, inputs, digests=True, small=True),
        Made(f"{name}_*", step, inputs, swappable=True),
    )


_STEP = "training step"
_PHASES = {name: Replay({}, run_as=_STEP) for name in ("forward", "backward", "clip", "scaler", "optimizer")}
"""What can be run by itself, as a part of one training step from the state in which that began."""
_UPDATE = ("clipped", "skipped", "learning_rate")

# A row is a step of the training, and inputs are those of the same step. What the steps before have left (weights,
# moments, random states, the scale, the learning rate) is no input here: what differs in an earlier step is the cause
# of what differs in a later one, whatever it is (`stepwise`).
TRAIN = JobKind(
    "train",
    (
        Made("batch", "batch", small=True),
        Made("input_ids", "batch", ("batch",), digests=True, small=True),
        Made("random_before", "random state", digests=True, small=True),
        # The states themselves of the generators that dropout draws from.
        Made("random_*", "random state", swappable=True),
        Made("scores", "forward", ("input_ids", "random_before"), small=True),
        Made("loss", "loss", ("batch", "scores"), role="final"),
        # The one that the loss of the step is multiplied by; 1 where nothing is scaled.
        Made("scale", "scaler", small=True),
        *_parameters("gradients", "backward", "scores", "loss", "scale"),
        Made("gradient_norm", "clip", ("gradients",), small=True),
        *_parameters("clipped", "clip", "gradients", "gradient_norm"),
        Made("skipped", "scaler", ("gradients",), small=True),
        Made("learning_rate", "optimizer", small=True),
        *_parameters("first_moments", "optimizer", *_UPDATE),
        *_parameters("second_moments", "optimizer", *_UPDATE),
        *_parameters("weights", "optimizer", "first_moments", "second_moments", *_UPDATE),
        # All parameters one after the other, as the last step has left them.
        Made("trained", "optimizer", ("weights",), role="final", once=True),
    ),
    _meaning,
    # The loss of in-batch negatives is computed in the forward pass.
    replays={**_PHASES, "loss": Replay({}, run_as=_STEP, after="forward")},
    product="model",
    stepwise=True,
    revision=2,
)
