"""Synthesised tones of known pitch, cut and scaled as torchcrepe does it."""

import numpy as np

RATE = 16_000  # samples a second
FRAME = 1_024  # samples: 64 ms
LOWEST = 1997.3794084376191  # cents above 10 Hz of pitch 0, 31.7 Hz
CENTS = 20  # between neighbouring pitches
EVERY = 10  # of the 360 pitches one is heard: two semitones apart


def build(each: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    """Frames of 36 pitches from 33.6 Hz to 1.9 kHz; their labels are numbers of the network's outputs.

    A tone has all harmonics below 8 kHz. How fast they fall off, how they deviate from that, their phases, noise 10 to
    40 dB below the tone, and a detuning of at most half the distance of two pitches are drawn for each frame.

    Args:
        each: Frames of a pitch.
        seed: Of all that is drawn.

    Returns:
        ``images``, float32 of shape (36 each, 1, 1024), each of mean 0 and deviation 1; ``labels``, pitches 0 to 359.
    """
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(EVERY // 2, 360, EVERY), each)
    return {"images": np.stack([tone(pitch, random)[None] for pitch in labels]), "labels": labels}


def tone(pitch: int, random: np.random.Generator) -> np.ndarray:
    """One frame."""
    cents = LOWEST + CENTS * (pitch + random.uniform(-0.5, 0.5))
    frequency = 10 * 2 ** (cents / 1200)
    harmonics = np.arange(1, int(RATE / 2 // frequency) + 1)
    loudness = harmonics ** -random.uniform(0.5, 2.5) * np.exp(random.normal(0, 0.5, len(harmonics)))
    phases = random.uniform(0, 2 * np.pi, len(harmonics))
    angles = 2 * np.pi * frequency / RATE * np.outer(np.arange(FRAME), harmonics) + phases
    frame = np.sin(angles) @ loudness
    frame += random.normal(0, frame.std() * 10 ** (-random.uniform(10, 40) / 20), FRAME)
    frame -= frame.mean()
    return (frame / frame.std(ddof=1)).astype(np.float32)
