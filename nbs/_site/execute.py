"""Run notebooks in place and store their outputs, without what changes from run to run: `python nbs/_site/execute.py [--slow] NOTEBOOK…`

Cells flagged `slow`, `gpu` or `api` keep the outputs they have; `--slow` runs the slow ones too, which may take long and add to a study's records.
"""
import os
import re
import subprocess
import sys
from pathlib import Path

os.environ |= {'TQDM_DISABLE': '1', 'TOKENIZERS_PARALLELISM': 'false'}

import nbformat
from nbclient import NotebookClient


def keep(output) -> bool:
    "Whether an output is worth storing: progress bars and warnings are not"
    bar = 'application/vnd.jupyter.widget-view+json' in output.get('data', {})
    return not bar and not (output.output_type == 'stream' and output.name == 'stderr')


def flagged(source: str, slow: bool) -> bool:
    "Whether a cell is one that needs more than a quick run"
    return bool(re.search(rf'^#\|\s*(gpu|api{"" if slow else "|slow"})\b', source, re.M))


def execute(path: Path, slow: bool = False) -> None:
    "Run one notebook in its own folder; it is written only if every cell ran"
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == 'code']
    kept = {i: (cell.source, cell.outputs) for i, cell in enumerate(code) if flagged(cell.source, slow)}
    for i in kept: code[i].source = ''
    NotebookClient(notebook, timeout=3600, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}}).execute()
    for i, cell in enumerate(code):
        cell.outputs = [o for o in cell.outputs if keep(o)]
        if i in kept: cell.source, cell.outputs = kept[i]
    notebook.metadata.pop('widgets', None)
    nbformat.write(notebook, path)
    subprocess.run([Path(sys.executable).parent/'nbdev_clean', '--fname', path], check=True)


if __name__ == '__main__':
    for name in sys.argv[1:]:
        if name != '--slow': execute(Path(name), slow='--slow' in sys.argv)
