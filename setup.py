"Install cotkit: everything is read from settings.ini, so there is one place to change it"
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='])
parser.read(here/'settings.ini', encoding='utf-8')
settings = parser['DEFAULT']
extras = {name: settings[f'{name}_requirements'].split() for name in ('notebooks', 'serving', 'lora', 'sentencepiece', 'gguf', 'cluster', 'dev')}

setup(
    name=settings['lib_name'],
    version=settings['version'],
    description=settings['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author=settings['author'],
    author_email=settings['author_email'],
    url=settings['git_url'],
    keywords=settings['keywords'],
    license='Apache-2.0',
    packages=find_packages(include=['cotkit', 'cotkit.*']),
    python_requires=f'>={settings["min_python"]}',
    install_requires=settings['requirements'].split(),
    extras_require=extras,
    entry_points={'console_scripts': settings['console_scripts'].split(), 'nbdev': ['cotkit=cotkit._modidx:d']},
    package_data={'cotkit': ['py.typed', 'assets/*']},
    zip_safe=False,
)
