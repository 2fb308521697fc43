"What the benchmarks share: what they measured on the screen, and in the file that BENCH_RECORDS names if it names one"
import json
import os
import time
from pathlib import Path

from cotkit.data.records import git_commit


def clock():
    "A callback of a `Trainer` that knows the `seconds` from the first step's begin to the last step's end, without what is done once"
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            if not state.global_step: self.begin = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs): self.seconds = time.perf_counter() - self.begin
    return Clock()


def matrix_limit(timer=time.perf_counter, seconds: float = 1.0, size: int = 1024) -> float:
    "GFLOP/s of large single-precision products"
    import torch
    a, b = torch.randn(size, size), torch.randn(size, size)
    count, begin = 0, timer()
    while timer() - begin < seconds:
        a @ b
        count += 1
    return count * 2 * size**3 / (timer() - begin) / 1e9


class Measured:
    "The lines of one benchmark"

    def __init__(self, bench: str, stage: str):
        self.about, self.rows = {'bench': Path(bench).name, 'stage': stage}, []

    def say(self, what: str, value: float, unit: str, against: str = '', reference: float | None = None) -> None:
        "One thing that was measured; `reference` is the same of what it is compared `against`"
        ratio = None if reference is None else round(value / reference, 2)
        self.rows.append({**self.about, 'what': what, 'value': float(f'{value:.4g}'), 'unit': unit, 'against': against, 'ratio': ratio})
        shown = '' if reference is None else f'  {ratio:.2f} × {against}'
        print(f'{what:52} {f"{value:,.0f}" if value >= 1000 else f"{value:.4g}":>12} {unit:14}{shown}', flush=True)

    def save(self) -> None:
        "Put these lines in place of the benchmark's earlier ones"
        if not (path := os.environ.get('BENCH_RECORDS')): return
        path, commit = Path(path), git_commit().get('commit', '')
        kept = [line for line in (path.read_text().splitlines() if path.is_file() else []) if json.loads(line).get('bench') != self.about['bench']]
        path.write_text('\n'.join([*kept, *(json.dumps({**row, 'commit': commit}, ensure_ascii=False) for row in self.rows)]) + '\n')
