"Import: seconds of a new interpreter that imports cotkit, beside one that imports nothing"
import subprocess
import sys
import time
from statistics import median


def seconds(code: str, rounds: int = 9) -> float:
    "Median wall time of `python -c code`"
    taken = []
    for _ in range(rounds):
        begin = time.perf_counter()
        subprocess.run([sys.executable, '-c', code], check=True)
        taken.append(time.perf_counter() - begin)
    return median(taken)


if __name__ == '__main__':
    bare = seconds('pass')
    for code in ('pass', 'import cotkit', 'import cotkit.cli'):
        taken = seconds(code)
        print(f'{code:<20} {taken:.3f} s  {taken - bare:+.3f} s against a bare interpreter')
