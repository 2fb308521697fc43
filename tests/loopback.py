"""A chat-completions server on 127.0.0.1 that can be as bad as real ones.

`with Loopback(plan) as server:` runs it in a thread. `plan(n, body)` decides what happens to the n-th request (counted from 0)
and returns one of the faults below, or None for an answer. Run as a script it prints its port and serves until it is killed.
"""
from __future__ import annotations

import argparse, asyncio, json, socket, struct, threading, time
from dataclasses import dataclass, field
from typing import Any, Callable

from aiohttp import web


@dataclass
class Status:
    "An HTTP error"
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None


@dataclass
class Stall:
    "Accept the request and say nothing for a while"
    seconds: float = 60.0


class Truncate:
    "Promise a whole reply and close the connection in the middle of it"


class Reset:
    "Reset the connection instead of replying"


@dataclass
class Raw:
    "Reply 200 with this text"
    text: str
    content_type: str = 'application/json'


Plan = Callable[[int, dict], Any]


def answer_text(body: dict) -> str:
    "What the server says: it repeats the last word of the prompt, so that a test can tell the answers apart"
    return f'I was asked about {body["messages"][-1]["content"].split()[-1]} The answer is 11.'


def reply(body: dict) -> dict:
    "A whole chat completion, with logprobs if they were asked for"
    text = answer_text(body)
    words = [w if i == 0 else f' {w}' for i, w in enumerate(text.split(' '))]
    logprobs = None
    if body.get('logprobs'):
        k = body.get('top_logprobs', 0)
        logprobs = {'content': [{'token': w, 'logprob': -0.25, 'bytes': list(w.encode()),
                                 'top_logprobs': [{'token': w if j == 0 else f'{w}{j}', 'logprob': -0.25 - j, 'bytes': None} for j in range(k)]} for w in words]}
    return {'id': 'chatcmpl-1', 'object': 'chat.completion', 'created': 0, 'model': body['model'],
            'choices': [{'index': 0, 'finish_reason': 'stop', 'message': {'role': 'assistant', 'content': text}, 'logprobs': logprobs}],
            'usage': {'prompt_tokens': len(body['messages'][-1]['content'].split()), 'completion_tokens': len(words), 'total_tokens': 0}}


class Loopback:
    "The server; `received` has (time, headers, body) of every request in the order they came"

    def __init__(self, plan: Plan = lambda n, body: None, latency: float = 0.0):
        self.plan, self.latency = plan, latency
        self.received: list[tuple[float, dict[str, str], dict]] = []
        self.paths: list[str] = []
        self.max_concurrency, self.most_in_flight = 0, 0
        self.ready = threading.Event()

    @property
    def base_url(self) -> str: return f'http://127.0.0.1:{self.port}/v1'

    @property
    def prompts(self) -> list[str]: return [body['messages'][-1]['content'] for _, _, body in self.received]

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        n = len(self.received)
        self.paths.append(str(request.rel_url))
        self.received.append((time.monotonic(), dict(request.headers), body))
        self.max_concurrency += 1
        self.most_in_flight = max(self.most_in_flight, self.max_concurrency)
        try:
            if self.latency: await asyncio.sleep(self.latency)
            return await self.act(self.plan(n, body), request, body)
        finally: self.max_concurrency -= 1

    async def act(self, fault: Any, request: web.Request, body: dict) -> web.StreamResponse:
        if fault is None: return web.json_response(reply(body))
        if isinstance(fault, Status): return web.json_response(fault.body or {'error': {'message': 'no'}}, status=fault.status, headers=fault.headers)
        if isinstance(fault, Raw): return web.Response(text=fault.text, content_type=fault.content_type)
        if isinstance(fault, Stall): await asyncio.sleep(fault.seconds)
        if isinstance(fault, Truncate):
            whole = json.dumps(reply(body)).encode()
            response = web.StreamResponse(headers={'Content-Type': 'application/json', 'Content-Length': str(len(whole))})
            await response.prepare(request)
            await response.write(whole[:len(whole) // 2])
            request.transport.close()
            return response
        if isinstance(fault, Reset):
            request.transport.get_extra_info('socket').setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            request.transport.abort()
        return web.json_response(reply(body))

    async def serve(self) -> None:
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application()
        app.router.add_post('/{base:.*}/chat/completions', self.chat)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, '127.0.0.1', 0, backlog=1024)
        await site.start()
        self.port = runner.addresses[0][1]
        self.ready.set()
        await self.stop.wait()
        await runner.cleanup()

    def __enter__(self) -> Loopback:
        self.thread = threading.Thread(target=lambda: asyncio.run(self.serve()), daemon=True)
        self.thread.start()
        assert self.ready.wait(10), 'the loopback server did not start'
        return self

    def __exit__(self, *error) -> None:
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join(10)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--latency', type=float, default=0.1, help='seconds before each reply')
    parser.add_argument('--refuse', type=float, default=0.0, help='share of requests that get status 429, spread evenly')
    options = parser.parse_args()
    refuse = lambda n, body: Status(429) if int((n + 1) * options.refuse) > int(n * options.refuse) else None
    server = Loopback(refuse, options.latency)

    async def main():
        serving = asyncio.create_task(server.serve())
        while not server.ready.is_set(): await asyncio.sleep(0.01)
        print(server.port, flush=True)
        await serving

    asyncio.run(main())
