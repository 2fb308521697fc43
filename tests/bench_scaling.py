"""Scaling laws beside `simple-scaling-laws` and kyo-takano's `chinchilla`, on the same tables in one run: objective, seconds, recovery of known truth.

Both are taken from the interpreter that COTKIT_RIVALS names (they pin other versions, and one needs Python 3.12):
    python3.12 -m venv rivals; rivals/bin/pip install simple-scaling-laws==0.2.0 chinchilla==0.2.0
    COTKIT_RIVALS=rivals/bin/python python tests/bench_scaling.py
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')

import numpy as np

from cotkit.pretraining.loss_tables import draw_losses, read_losses
from cotkit.pretraining.scaling import FitConfig, fit_law
from measured import Measured

DATA = Path(os.environ.get('COTKIT_DATA') or Path(__file__).resolve().parents[2]/'shared'/'data')/'scaling'
TRUTH = {'E': 1.69, 'A': 406.4, 'alpha': 0.34, 'B': 410.7, 'beta': 0.28}
TABLES, DRAWS = 20, 500  # synthetic tables with known truth; resamples for intervals, ours and theirs

RIVALS = r'''
import functools, json, logging, sys, tempfile, time, warnings
from importlib.util import find_spec
from pathlib import Path
warnings.simplefilter("ignore")
import numpy as np

def simple(table, draws):
    import polars as pl
    from simple_scaling_laws import fit
    n = len(table["loss"])
    frame = pl.DataFrame({"training_run_id": [str(i) for i in range(n)], "test_set_id": ["one"] * n, "model_size__params": table["params"],
                          "dataset_size__tokens": table["tokens"], "test_loss__loss": table["loss"]})
    began = time.perf_counter()
    model = fit(frame, law="separable-power", n_draws=draws, seed=0)
    seconds = time.perf_counter() - began
    p, ends = model.params("test_loss__loss"), model.conf_int("test_loss__loss")
    centre = [model.observed_domain[name]["reference"] for name in ("model_size__params", "dataset_size__tokens")]
    raw = {"E": p["E"], "A": p["A"] * centre[0] ** p["alpha"], "alpha": p["alpha"], "B": p["B"] * centre[1] ** p["beta"], "beta": p["beta"]}
    return {"fit": raw, "intervals": {k: list(ends[k]) for k in ("E", "alpha", "beta")}, "seconds": seconds}

def chinchilla(table, draws):
    import chinchilla
    from chinchilla._metrics import log_huber
    with tempfile.TemporaryDirectory() as folder:
        with open(Path(folder)/"df.csv", "w") as f:
            f.write("C,N,D,loss\n")
            for n, d, loss in zip(table["params"], table["tokens"], table["loss"]): f.write(f"{6*n*d!r},{n!r},{d!r},{loss!r}\n")
        grid = dict(E=np.linspace(1, 2, 3), a=np.linspace(1, 10, 3), b=np.linspace(1, 10, 3), alpha=np.linspace(0.1, 0.7, 3), beta=np.linspace(0.1, 0.7, 3))
        cc = chinchilla.Chinchilla(folder, param_grid=grid, loss_fn=functools.partial(log_huber, delta=1e-3), log_level=60)
        began = time.perf_counter()
        cc.fit()
        seconds = time.perf_counter() - began
        return {"fit": {k: float(v) for k, v in cc.params.items()}, "intervals": {}, "seconds": seconds}

if __name__ == "__main__":
    tables, out = json.loads(Path(sys.argv[1]).read_text()), {}
    for name, module, run, many in (("simple-scaling-laws", "simple_scaling_laws", simple, True), ("chinchilla", "chinchilla", chinchilla, False)):
        if find_spec(module) is None: continue
        out[name] = {key: run(table, tables["draws"]) for key, table in tables["tables"].items() if many or not key.startswith("known") or key == "known 0"}
    Path(sys.argv[2]).write_text(json.dumps(out))
'''


def objective(values, table, delta=1e-3):
    "The sum of Huber losses of the log loss"
    predicted = values['E'] + values['A'] / table.scales['params']**values['alpha'] + values['B'] / table.scales['tokens']**values['beta']
    r = np.abs(np.log(predicted) - np.log(table.loss))
    return float(np.where(r <= delta, r*r/2, delta*(r - delta/2)).sum())


def ours(table, draws):
    began = time.perf_counter()
    fit = fit_law(table, config=FitConfig(draws=draws))
    return {'fit': fit.values, 'intervals': {name: fit.interval(name) for name in ('E', 'alpha', 'beta')}, 'seconds': time.perf_counter() - began}


def rivals(tables):
    "What both made of the same tables; nothing of one that is absent"
    python = os.environ.get('COTKIT_RIVALS', sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        (here/'rivals.py').write_text(RIVALS)
        plain = {name: {**{k: v.tolist() for k, v in table.scales.items()}, 'loss': table.loss.tolist()} for name, table in tables.items()}
        (here/'tables.json').write_text(json.dumps({'draws': DRAWS, 'tables': plain}))
        ran = subprocess.run([python, here/'rivals.py', here/'tables.json', here/'out.json'], cwd=here, capture_output=True, text=True,
                             env={k: v for k, v in os.environ.items() if k != 'PYTHONPATH'})
        if ran.returncode: sys.exit(ran.stderr[-3000:])
        return json.loads((here/'out.json').read_text())


def main():
    tables = {f'known {i}': draw_losses(TRUTH, np.geomspace(1e7, 1e10, 7), np.geomspace(1e9, 1e12, 7), 0.01, i) for i in range(TABLES)}
    if (file := DATA/'chinchilla_epoch.csv').is_file():
        epoch = read_losses(file)
        tables['published table'] = epoch.where(np.sort(np.argsort(epoch.loss)[:-5]))
    others, measured = rivals(tables), Measured(__file__, 'scaling laws')
    fit_law(tables['known 0'], config=FitConfig(draws=10))  # scipy is imported once, outside the clock, as theirs is
    own = {name: ours(table, DRAWS) for name, table in tables.items()}
    alone = {name: ours(table, 0) for name, table in tables.items()}
    for absent in {'simple-scaling-laws', 'chinchilla'} - set(others): print(f'{absent} is absent: name an interpreter that has it in COTKIT_RIVALS')
    for name in ('published table', 'known 0'):
        if name not in tables: continue
        for what, found in (('cotkit', own), *others.items()):
            value = objective(found[name]['fit'], tables[name])
            measured.say(f'{name}: objective, {what}', value, 'sum of Huber', *(('cotkit', objective(own[name]['fit'], tables[name])) if what != 'cotkit' else ()))
        if 'chinchilla' in others: measured.say(f'{name}: point fit', alone[name]['seconds'], 's', 'chinchilla', others['chinchilla'][name]['seconds'])
        if 'simple-scaling-laws' in others: measured.say(f'{name}: fit and {DRAWS} resamples', own[name]['seconds'], 's', 'simple-scaling-laws', others['simple-scaling-laws'][name]['seconds'])
    known = [name for name in tables if name.startswith('known')]
    for what, found in (('cotkit', own), *((name, o) for name, o in others.items() if len(o) >= len(known))):
        for parameter in ('E', 'alpha', 'beta'):
            inside = np.mean([low <= TRUTH[parameter] <= high for low, high in (found[name]['intervals'][parameter] for name in known)])
            width = np.median([high - low for low, high in (found[name]['intervals'][parameter] for name in known)])
            error = np.median([abs(found[name]['fit'][parameter] - TRUTH[parameter]) for name in known])
            measured.say(f'{what}, {parameter}: intervals hold the truth', 100*inside, f'% of {len(known)}')
            measured.say(f'{what}, {parameter}: median width', width, '')
            measured.say(f'{what}, {parameter}: median error', error, '')
        measured.say(f'{what}: seconds for each table', np.median([found[name]['seconds'] for name in known]), 's')
    measured.save()


if __name__ == '__main__': main()
