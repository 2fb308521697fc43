"Settings of short, quiet training runs on the CPU, from flat keywords"
from dataclasses import fields

from cotkit.training.config import TrainConfig

OWN = {f.name for f in fields(TrainConfig)} - {'overrides'}


def settings(**flat) -> TrainConfig:
    "What is no field of `TrainConfig` overrides a training argument"
    overrides = {'disable_tqdm': True, 'use_cpu': True} | {k: v for k, v in flat.items() if k not in OWN}
    return TrainConfig(**{k: v for k, v in flat.items() if k in OWN}, overrides=overrides)


def one_step(**flat) -> TrainConfig:
    "A single step without clipping, so that the gradient is that of the loss"
    return settings(**{'max_steps': 1, 'max_grad_norm': 0.0, 'save_strategy': 'no', **flat})
