"""A model hub on 127.0.0.1 that speaks as much of the real one's protocol as an upload and a download need.

`with Hub(token) as hub:` runs it in a thread; `hub.environment()` points a process at it. `hub.repos` has the files of each repository,
`hub.private` which of them are private. `plan(request)` may return a status to refuse a request with, or 0 to break the connection.
Weights travel by git-lfs (batch, PUT, verify), small files inside the commit, as on the real hub without Xet.
"""
from __future__ import annotations

import asyncio, base64, hashlib, json, os, threading
from typing import Callable

import yaml
from aiohttp import web

LICENCES = {'apache-2.0', 'mit', 'cc-by-4.0'}


class Hub:
    def __init__(self, token: str, plan: Callable[[web.Request], int | None] = lambda request: None, lfs: bool = True):
        self.token, self.plan, self.lfs = token, plan, lfs
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.objects: dict[str, bytes] = {}
        self.commits: list[tuple[str, str]] = []
        self.paths: list[str] = []
        self.ready = threading.Event()

    def environment(self, **more: str) -> dict[str, str]:
        "That of a process which knows this hub and no other, and has a cache of its own"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(('HF_', 'HUGGING'))}
        return {**clean, 'HF_ENDPOINT': self.url, 'HF_HUB_DISABLE_TELEMETRY': '1', 'HF_HUB_DISABLE_XET': '1', 'OMP_NUM_THREADS': '1', **more}

    @property
    def url(self) -> str: return f'http://127.0.0.1:{self.port}'

    @web.middleware
    async def gate(self, request: web.Request, handler) -> web.StreamResponse:
        self.paths.append(request.path)
        status = self.plan(request)
        if status == 0:
            request.transport.abort()
            return web.Response()
        if status: return web.json_response({'error': 'no, said the hub'}, status=status)
        if not request.path.startswith('/lfs/') and request.headers.get('Authorization') != f'Bearer {self.token}':
            return web.json_response({'error': 'Invalid credentials in Authorization header'}, status=401)
        return await handler(request)

    async def create(self, request: web.Request) -> web.Response:
        asked = await request.json()
        repo = f'{asked["organization"]}/{asked["name"]}'
        there = repo in self.repos
        if not there: self.repos[repo], self.private[repo] = {}, asked.get('private', asked.get('visibility') == 'private')
        return web.json_response({'url': f'{self.url}/{repo}', **({'error': 'You already created this model repo'} if there else {})}, status=409 if there else 200)

    async def validate(self, request: web.Request) -> web.Response:
        front = yaml.safe_load((await request.json())['content'].split('---')[1])
        wrong = [] if front.get('license', 'mit') in LICENCES else [{'message': f'"license" must be one of {sorted(LICENCES)}'}]
        return web.json_response({'errors': wrong, 'warnings': []}, status=400 if wrong else 200)

    async def preupload(self, request: web.Request) -> web.Response:
        def mode(path): return 'lfs' if self.lfs and path.endswith('.safetensors') else 'regular'
        files = (await request.json())['files']
        return web.json_response({'files': [{'path': f['path'], 'uploadMode': mode(f['path']), 'shouldIgnore': False, 'oid': None} for f in files]})

    async def batch(self, request: web.Request) -> web.Response:
        def actions(oid): return {} if oid in self.objects else {'actions': {'upload': {'href': f'{self.url}/lfs/{oid}'}, 'verify': {'href': f'{self.url}/verify'}}}
        return web.json_response({'transfer': 'basic', 'objects': [{**o, **actions(o['oid'])} for o in (await request.json())['objects']]})

    async def store(self, request: web.Request) -> web.Response:
        content = await request.read()
        if hashlib.sha256(content).hexdigest() != request.match_info['oid']: return web.Response(status=400)
        self.objects[request.match_info['oid']] = content
        return web.Response()

    async def verify(self, request: web.Request) -> web.Response:
        asked = await request.json()
        return web.json_response({}, status=200 if len(self.objects.get(asked['oid'], b'')) == asked['size'] else 404)

    async def commit(self, request: web.Request) -> web.Response:
        repo, files = self.repo(request), {}
        header, *rows = [json.loads(line) for line in (await request.read()).splitlines()]
        for row in rows:
            value = row['value']
            files[value['path']] = base64.b64decode(value['content']) if row['key'] == 'file' else self.objects[value['oid']]
        self.repos[repo].update(files)
        self.commits.append((repo, header['value']['summary']))
        return web.json_response({'commitUrl': f'{self.url}/{repo}/commit/{self.sha(repo)}', 'commitOid': self.sha(repo)})

    async def info(self, request: web.Request) -> web.Response:
        repo = self.repo(request)
        if repo not in self.repos: return web.json_response({'error': 'Repository not found'}, status=404, headers={'X-Error-Code': 'RepoNotFound'})
        return web.json_response({'id': repo, 'modelId': repo, 'sha': self.sha(repo), 'private': self.private[repo], 'tags': [],
                                  'siblings': [{'rfilename': path} for path in self.repos[repo]]})

    async def tree(self, request: web.Request) -> web.Response:
        files = self.repos[self.repo(request)].items()
        return web.json_response([{'type': 'file', 'path': p, 'size': len(c), 'oid': hashlib.sha1(c).hexdigest()} for p, c in files])

    async def resolve(self, request: web.Request) -> web.Response:
        repo = self.repo(request)
        content = self.repos[repo].get(request.match_info['path'])
        if content is None: return web.Response(status=404, headers={'X-Error-Code': 'EntryNotFound', 'X-Repo-Commit': self.sha(repo)})
        headers = {'X-Repo-Commit': self.sha(repo), 'ETag': f'"{hashlib.sha1(content).hexdigest()}"'}
        return web.Response(body=content, headers=headers, content_type='application/octet-stream')

    def repo(self, request: web.Request) -> str: return f'{request.match_info["owner"]}/{request.match_info["name"]}'

    def sha(self, repo: str) -> str:
        return hashlib.sha1(json.dumps(sorted((p, hashlib.sha1(c).hexdigest()) for p, c in self.repos[repo].items())).encode()).hexdigest()

    async def serve(self) -> None:
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        app, at = web.Application(middlewares=[self.gate], client_max_size=2 ** 28), '{owner}/{name}'
        app.add_routes([
            web.post('/api/repos/create', self.create), web.post('/api/validate-yaml', self.validate), web.put('/lfs/{oid}', self.store),
            web.post('/verify', self.verify), web.post(f'/{at}.git/info/lfs/objects/batch', self.batch), web.get(f'/api/models/{at}', self.info),
            web.get(f'/api/models/{at}/revision/{{revision}}', self.info), web.get(f'/api/models/{at}/tree/{{revision}}', self.tree),
            web.post(f'/api/models/{at}/preupload/{{revision}}', self.preupload), web.post(f'/api/models/{at}/commit/{{revision}}', self.commit),
            web.get(f'/{at}/resolve/{{revision}}/{{path:.*}}', self.resolve)])
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, '127.0.0.1', 0).start()
        self.port = runner.addresses[0][1]
        self.ready.set()
        await self.stop.wait()
        await runner.cleanup()

    def __enter__(self) -> Hub:
        self.thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)
        self.thread.start()
        assert self.ready.wait(10), 'the hub did not start'
        return self

    def __exit__(self, *error) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(10)
