"""All faults, by the room that they are of."""

from tests.mutants import diffusion, evaluation, generation, model, packing, training, world

ROOMS = {
    "train_model": training.MUTANTS,
    "model": model.MUTANTS,
    "diffusion": diffusion.MUTANTS,
    "generation": generation.MUTANTS,
    "pack_sequences": packing.MUTANTS,
    "world": world.MUTANTS,
    "evaluate_model": evaluation.MUTANTS,
}
