/** The one client of the server extension. */

import { URLExt } from '@jupyterlab/coreutils';
import { ServerConnection } from '@jupyterlab/services';

import type {
  Checked,
  ClusterList,
  Form,
  Planned,
  Refusal,
  Service,
  StudyList,
  StudyPage,
  Weight
} from './types';

/** The server said no: `message` says what is wrong and what to do. */
export class ApiError extends Error {
  constructor(
    readonly refusal: Refusal,
    readonly status: number
  ) {
    super(refusal.message);
  }
}

/** The server has no extension of ours. */
export class MissingServer extends Error {
  constructor() {
    super('The Jupyter server cannot compress: its environment lacks quanttaas-jupyter.');
  }

  /** What mends it. */
  readonly command = 'pip install quanttaas-jupyter';
}

/** The server does not answer at all. */
export class Silent extends Error {
  constructor() {
    super('The Jupyter server does not answer; what it said last is shown. It is asked again.');
  }
}

/** What a study's page shows on its horizontal axis. */
export interface AxisChoice {
  axis: 'size' | 'latency';
  log: boolean;
}

/** A study in a store. */
export interface StudyKey {
  id: string;
  store: string;
}

/** An answer with the tag that asks "anything new since?" the next time. */
export interface Tagged<T> {
  tag: string;
  value: T;
}

export class Api {
  constructor(private readonly settings: ServerConnection.ISettings) {}

  service(): Promise<Service> {
    return this.ask('service');
  }

  /** The studies of all stores; null where nothing changed since `tag`. */
  studies(tag: string): Promise<Tagged<StudyList> | null> {
    return this.askAgain('studies', tag);
  }

  /** All that a study's page draws; null where nothing changed since `tag`. */
  study(key: StudyKey, choice: AxisChoice, tag: string): Promise<Tagged<StudyPage> | null> {
    const log = String(choice.log);
    return this.askAgain(`studies/${key.id}`, tag, { store: key.store, axis: choice.axis, log });
  }

  cancel(key: StudyKey): Promise<void> {
    return this.ask(`studies/${key.id}/cancel`, 'POST', {}, { store: key.store });
  }

  resume(key: StudyKey, trusted: boolean): Promise<void> {
    return this.ask(`studies/${key.id}/resume`, 'POST', { trusted }, { store: key.store });
  }

  weight(key: StudyKey): Promise<Weight> {
    return this.ask(`studies/${key.id}/weight`, 'GET', undefined, { store: key.store });
  }

  remove(key: StudyKey): Promise<Weight> {
    return this.ask(`studies/${key.id}`, 'DELETE', undefined, { store: key.store });
  }

  /** The cell that shows a study in the notebook, or that loads the model of a trial. */
  cell(key: StudyKey, trial: string): Promise<{ cell: string }> {
    return this.ask(`studies/${key.id}/cell`, 'GET', undefined, { store: key.store, trial });
  }

  /** Where the browser downloads a trial's file. */
  artifactUrl(key: StudyKey, trial: string): string {
    return this.url(`studies/${key.id}/artifacts/${encodeURIComponent(trial)}`, {
      store: key.store,
      ...(this.settings.appendToken && this.settings.token ? { token: this.settings.token } : {})
    });
  }

  clusters(tag: string): Promise<Tagged<ClusterList> | null> {
    return this.askAgain('clusters', tag);
  }

  startCluster(): Promise<void> {
    return this.ask('clusters/start', 'POST', {});
  }

  stopCluster(name: string): Promise<void> {
    return this.ask('clusters/stop', 'POST', { name });
  }

  connectCluster(values: {
    name: string;
    address: string;
    token_file: string;
    store: string;
  }): Promise<void> {
    const given = Object.entries(values).filter(([, value]) => value !== '');
    return this.ask('clusters/connect', 'POST', Object.fromEntries(given));
  }

  /** A template, and the cell that writes it into a file. */
  template(kind: string): Promise<{ text: string; cell: string }> {
    return this.ask(`clusters/template/${encodeURIComponent(kind)}`);
  }

  readonly check = (form: Form): Promise<Checked> => this.ask('recipe/validate', 'POST', form);

  readonly plan = (form: Form): Promise<Planned> => this.ask('recipe/plan', 'POST', form);

  private url(path: string, query: Record<string, string> = {}): string {
    const asked = Object.entries(query).filter(([, value]) => value !== '');
    const tail = asked.length ? URLExt.objectToQueryString(Object.fromEntries(asked)) : '';
    return URLExt.join(this.settings.baseUrl, 'quanttaas', path) + tail;
  }

  private async send(url: string, init: RequestInit): Promise<Response> {
    const answer = await ServerConnection.makeRequest(url, init, this.settings).catch((error: unknown) => {
      throw error instanceof ServerConnection.NetworkError ? new Silent() : error;
    });
    if (answer.ok || answer.status === 304) {
      return answer;
    }
    throw await refused(answer);
  }

  private async ask<T>(
    path: string,
    method = 'GET',
    body?: object,
    query: Record<string, string> = {}
  ): Promise<T> {
    const init = body === undefined ? { method } : { method, body: JSON.stringify(body) };
    const answer = await this.send(this.url(path, query), init);
    return (answer.status === 204 ? undefined : await answer.json()) as T;
  }

  private async askAgain<T>(
    path: string,
    tag: string,
    query: Record<string, string> = {}
  ): Promise<Tagged<T> | null> {
    const headers: Record<string, string> = tag ? { 'If-None-Match': tag } : {};
    const answer = await this.send(this.url(path, query), { method: 'GET', headers });
    if (answer.status === 304) {
      return null;
    }
    return { tag: answer.headers.get('ETag') ?? '', value: (await answer.json()) as T };
  }
}

async function refused(answer: Response): Promise<Error> {
  const said: unknown = await answer.json().catch(() => null);
  if (isRefusal(said)) {
    return new ApiError(said, answer.status);
  }
  // Only a server without our extension knows nothing of these paths.
  return answer.status === 404
    ? new MissingServer()
    : new ApiError(
        {
          message: `The server answered ${answer.status} ${answer.statusText}.`,
          insert: '',
          needs_trust: false
        },
        answer.status
      );
}

/** Tornado's own answers have a message too, but never say whether something could be inserted. */
function isRefusal(said: unknown): said is Refusal {
  return typeof said === 'object' && said !== null && 'message' in said && 'insert' in said;
}
