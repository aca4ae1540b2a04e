"""What the demo found, as plain data: `dataclasses.asdict` makes JSON of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kill:
    """How the training was killed, and the last good state that was left to go on from.

    `unfinished` is the hidden folder that the killed save was writing, which proves that a save was
    under way; empty where none of the tries caught one. `epoch`, the first being 1, and `sample`
    are how far through the data that state is.
    """

    tries: int
    unfinished: str
    epoch: int
    sample: int
    step: int
    accuracy: float


@dataclass(frozen=True, slots=True)
class Conversion:
    """The weights in one format, compared with those that were trained.

    Args:
        format: its name.
        file: the name of the file in the demo's folder.
        bytes: its size.
        verified: how many tensors match a digest or checksum kept in the file.
        identical: whether names, types, shapes and bits are those that were trained.
        difference: the largest between two weights of the same name.
        accuracy: the share of the held-out digits that these weights recognise.
    """

    format: str
    file: str
    bytes: int
    verified: int
    identical: bool
    difference: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Summary:
    """What the demo did and found.

    Args:
        folder: where the files are, or were if they were temporary.
        trained_on: the number of digits trained on.
        held_out: the number of digits that the accuracies are measured with.
        weights: the number of weights in the network.
        epochs: how often each digit was shown.
        kill: how the training was killed.
        resumed_identical: whether the killed and resumed training ended in the same files, byte
            for byte, as one that was left alone.
        accuracy: the trained weights', before any conversion.
        conversions: the weights in every format that holds them.
        skipped: by format, why it has no conversion.
        files: by name, sizes in bytes; of a folder, those of all that is in it.
        seconds: how long it all took.
    """

    folder: str
    trained_on: int
    held_out: int
    weights: int
    epochs: int
    kill: Kill
    resumed_identical: bool
    accuracy: float
    conversions: tuple[Conversion, ...]
    skipped: dict[str, str]
    files: dict[str, int]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether everything that has to be equal is."""
        return self.resumed_identical and all(
            done.identical and done.accuracy == self.accuracy for done in self.conversions
        )
