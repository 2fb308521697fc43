"What a reader of a notebook sees, as text that a test can look into"
import html
import json
import re
from pathlib import Path


def shown_text(notebook: Path, prose: bool = False) -> str:
    "The text of all tables and values, and with `prose` of the markdown, one space apart, without tags"
    cells = json.loads(notebook.read_text(encoding='utf-8'))['cells']
    parts = [''.join(o['data'].get('text/html', o['data'].get('text/plain', ''))) for c in cells if c['cell_type'] == 'code' for o in c['outputs'] if 'data' in o]
    if prose: parts += [''.join(c['source']) for c in cells if c['cell_type'] == 'markdown']
    text = re.sub(r'<[^>]*>', ' ', re.sub(r'<style.*?</style>', '', '\n'.join(parts), flags=re.S))
    return ' '.join(html.unescape(text).split())
