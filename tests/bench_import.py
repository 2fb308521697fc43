"Import: seconds of a new interpreter that imports cotkit, beside one that imports nothing"
import subprocess
import sys
import time
from statistics import median

from measured import Measured


def seconds(code: str, rounds: int = 9) -> float:
    "Median wall time of `python -c code`"
    taken = []
    for _ in range(rounds):
        begin = time.perf_counter()
        subprocess.run([sys.executable, '-c', code], check=True, stdout=subprocess.DEVNULL)
        taken.append(time.perf_counter() - begin)
    return median(taken)


if __name__ == '__main__':
    measured, bare = Measured(__file__, 'import'), seconds('pass')
    measured.say('python -c "pass"', bare, 's')
    for code in ('import cotkit', 'import cotkit.app.cli'): measured.say(f'python -c "{code}"', seconds(code), 's', 'a bare interpreter', bare)
    for line in (['--help'], ['collect', '--help'], ['distill', '--help'], ['evaluate', '--help']):
        code = f'import sys; from cotkit.app.cli import main; sys.exit(main({line}))'
        measured.say(f'cotkit {" ".join(line)}, to its end', seconds(code), 's', 'a bare interpreter', bare)
    measured.save()
