import { ServerConnection } from '@jupyterlab/services';
import { describe, expect, it } from 'vitest';

import { Api, ApiError, MissingServer } from '../src/api';

const KEY = { id: '7f3a', store: 'gs://bucket/studies' };

function serving(...answers: Response[]): { api: Api; asked: Request[] } {
  const asked: Request[] = [];
  const fetch = (request: Request): Promise<Response> => {
    asked.push(request);
    return Promise.resolve(answers.shift() ?? Response.json({}));
  };
  const settings = ServerConnection.makeSettings({
    baseUrl: 'http://localhost:8888/',
    fetch: fetch as typeof globalThis.fetch,
    Request,
    Headers,
    token: ''
  });
  return { api: new Api(settings), asked };
}

describe('Api', () => {
  it('asks with the tag of the last answer, and knows when nothing changed', async () => {
    const first = Response.json({ studies: [], silent: [] }, { headers: { ETag: '"1"' } });
    const { api, asked } = serving(first, new Response(null, { status: 304 }));
    const answer = await api.studies('');
    expect(answer).toEqual({ tag: '"1"', value: { studies: [], silent: [] } });
    expect(await api.studies('"1"')).toBeNull();
    expect(asked.map(request => request.headers.get('If-None-Match'))).toEqual([null, '"1"']);
  });

  it('names the store and the axis of a study', async () => {
    const { api, asked } = serving();
    await api.study(KEY, { axis: 'latency', log: false }, '');
    const url = new URL(asked[0]?.url ?? '');
    expect(url.pathname).toBe('/quanttaas/studies/7f3a');
    expect(Object.fromEntries(url.searchParams)).toMatchObject({
      store: KEY.store,
      axis: 'latency',
      log: 'false'
    });
  });

  it('escapes a trial in the address of its file', () => {
    const { api } = serving();
    expect(api.artifactUrl(KEY, '2:4-int8@torch')).toContain('/artifacts/2%3A4-int8%40torch?store=gs');
  });

  it('passes on the sentence of a refusal, with what to insert instead', async () => {
    const refusal = { message: 'no torch here', insert: '%quanttaas resume 7f3a', needs_trust: false };
    const { api } = serving(Response.json(refusal, { status: 409 }));
    const error = await api.resume(KEY, false).catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(ApiError);
    expect((error as ApiError).message).toBe('no torch here');
    expect((error as ApiError).refusal.insert).toBe('%quanttaas resume 7f3a');
  });

  it('knows a server without the extension by its own 404', async () => {
    const { api } = serving(Response.json({ message: 'Not Found', reason: null }, { status: 404 }));
    await expect(api.service()).rejects.toBeInstanceOf(MissingServer);
  });

  it('sends only what a person filled in of a cluster', async () => {
    const { api, asked } = serving(new Response(null, { status: 204 }));
    await api.connectCluster({ name: 'l4', address: 'http://head:8265', token_file: '', store: '' });
    expect(await asked[0]?.json()).toEqual({ name: 'l4', address: 'http://head:8265' });
    expect(asked[0]?.method).toBe('POST');
  });
});
