"Run notebooks in place and store their outputs, without what changes from run to run: `python nbs/_site/execute.py NOTEBOOK…`"
import os
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


def execute(path: Path) -> None:
    "Run one notebook in its own folder; it is written only if every cell ran"
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=3600, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}}).execute()
    for cell in notebook.cells:
        if cell.cell_type == 'code': cell.outputs = [o for o in cell.outputs if keep(o)]
    notebook.metadata.pop('widgets', None)
    nbformat.write(notebook, path)
    subprocess.run([Path(sys.executable).parent/'nbdev_clean', '--fname', path], check=True)


if __name__ == '__main__':
    for name in sys.argv[1:]: execute(Path(name))
