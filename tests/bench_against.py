"""Every benchmark of this checkout beside the same one of another revision, in turn, in one run.

    python tests/bench_against.py REVISION [bench_train.py …] [--rounds 3]

Lines are matched by their order within a benchmark. A ratio is that of the medians, this checkout to REVISION.
"""
from __future__ import annotations

import argparse, json, os, subprocess, sys, tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent


def run(tree: Path, bench: str) -> list[dict]:
    "What one benchmark of a tree says it measured"
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder)/'rows.jsonl'
        environment = {**os.environ, 'BENCH_RECORDS': str(records), 'PYTHONPATH': str(tree)}
        subprocess.run([sys.executable, tree/'tests'/bench], cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)
        return [json.loads(line) for line in records.read_text().splitlines()]


def compare(here: Path, there: Path, bench: str, rounds: int) -> list[dict]:
    "The lines of one benchmark with the medians of both sides"
    runs = [(run(here, bench), run(there, bench)) for _ in range(rounds)]
    ours, theirs = zip(*runs)
    rows = []
    for i, (row, other) in enumerate(zip(ours[0], theirs[0])):
        values = [median(each[i]['value'] for each in side) for side in (ours, theirs)]
        rows.append({'bench': bench, 'what': row['what'], 'unit': row['unit'], 'here': values[0], 'there': values[1],
                     'ratio': round(values[0]/values[1], 2) if values[1] else None, 'was called': other['what']})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('revision')
    parser.add_argument('benches', nargs='*')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--out', type=Path, help='a JSON lines file for the rows')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=ROOT.parent) as folder:  # beside this one: both see the same data
        there = Path(folder)
        subprocess.run(['git', 'worktree', 'add', '--detach', there, args.revision], cwd=ROOT, check=True, capture_output=True)
        try:
            names = args.benches or sorted(p.name for p in (ROOT/'tests').glob('bench_*.py') if p.name != Path(__file__).name)
            rows = []
            for bench in (o for o in names if (there/'tests'/o).is_file()):
                for row in compare(ROOT, there, bench, args.rounds):
                    rows.append(row)
                    print(f'{row["what"]:56} {row["here"]:>10.4g} {row["there"]:>10.4g} {row["unit"]:12} {row["ratio"]}', flush=True)
        finally: subprocess.run(['git', 'worktree', 'remove', '--force', there], cwd=ROOT, capture_output=True)
    if args.out: args.out.write_text(''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows))


if __name__ == '__main__': main()
