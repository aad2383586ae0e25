"""What can go wrong in training, in words for the user.

TrainingError
├── EnvironmentFailure    the user's environment raised, or could not be made
├── UnsupportedSpace      observations or actions that no agent here takes
├── DeviceUnavailable     the worker's torch does not see the device of the job
├── CorruptState          a stored resume state that fails its checksum
├── IncompatibleState     one that another version wrote, which saves other things
└── ParityError           an exported policy that answers differently from the trained one

A run that diverges is no error of its job: the driver reports it failed (``diverged``) and the others go on.
"""

from typing import ClassVar


class TrainingError(Exception):
    """A failure with a stable ``code`` and a message a user can act on.

    ``retryable`` tells the supervisor whether another attempt may succeed.
    """

    code: ClassVar[str] = "training_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class EnvironmentFailure(TrainingError):
    """The environment raised an exception, or answered with something that is not a transition."""

    code = "environment_error"


class UnsupportedSpace(TrainingError):
    """The environment's observation or action space fits no agent."""

    code = "unsupported_space"


class DeviceUnavailable(TrainingError):
    """The device that the job is to train on is not there."""

    code = "device_unavailable"


class CorruptState(TrainingError):
    """A resume state is incomplete or fails its checksum."""

    code = "corrupt_state"
    retryable = True


class IncompatibleState(TrainingError):
    """A resume state holds other things than what is trained here: another version wrote it."""

    code = "incompatible_state"


class ParityError(TrainingError):
    """The exported graph differs from the trained network by more than the tolerance."""

    code = "parity"
