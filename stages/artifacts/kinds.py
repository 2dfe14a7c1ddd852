"""The form of each kind of artifact, as its format declares it."""

from __future__ import annotations

from stages.artifacts import autoencoder, checkpoint, latents, samples, scores, sequences, tokens
from stages.artifacts.form import Form

FORMS: dict[str, Form] = {
    "autoencoder": autoencoder.FORM,
    "latents": latents.FORM,
    "tokens": tokens.FORM,
    "sequences": sequences.FORM,
    "checkpoint": checkpoint.FORM,
    "samples": samples.FORM,
    "scores": scores.FORM,
}
