/** Something of the server that is asked for again and again while somebody looks. */

import { Poll } from '@lumino/polling';
import type { IDisposable } from '@lumino/disposable';
import { type ISignal, Signal } from '@lumino/signaling';

import type { Tagged } from './api';

/** What is known: the last value, and what went wrong since. */
export interface Known<T> {
  value: T | null;
  error: Error | null;
  /** Milliseconds since the epoch of the last answer; 0 before the first. */
  seen: number;
}

export interface LiveOptions<T> {
  name: string;
  /** Milliseconds between two questions. */
  interval: number;
  /** Asks; null where nothing changed since the tag. */
  ask: (tag: string) => Promise<Tagged<T> | null>;
  /** Whether anybody looks; nothing is asked while nobody does. */
  isWatched: () => boolean;
}

/** Polls with tags: an unchanged answer costs a few bytes, and redraws nothing. */
export class Live<T> implements IDisposable {
  constructor(private readonly options: LiveOptions<T>) {
    this.poll = new Poll({
      name: options.name,
      factory: () => this.look(),
      frequency: { interval: options.interval, backoff: true, max: 30_000 },
      standby: () => (options.isWatched() ? 'when-hidden' : true)
    });
  }

  get known(): Known<T> {
    return this.current;
  }

  /** Emitted when there is something new to draw. */
  get changed(): ISignal<this, Known<T>> {
    return this.signal;
  }

  get isDisposed(): boolean {
    return this.poll.isDisposed;
  }

  set interval(milliseconds: number) {
    this.poll.frequency = { ...this.poll.frequency, interval: milliseconds };
  }

  /** Ask now; resolves when the answer is there, or failed. */
  async refresh(): Promise<void> {
    if (!this.isDisposed) {
      await this.poll.refresh();
      await this.poll.tick.catch(() => undefined);
    }
  }

  /** Ask now, and take whatever comes for new. */
  async renew(): Promise<void> {
    this.tag = '';
    await this.refresh();
  }

  dispose(): void {
    this.poll.dispose();
    Signal.clearData(this);
  }

  private async look(): Promise<void> {
    try {
      const answer = await this.options.ask(this.tag);
      const hadError = this.current.error !== null;
      this.current = { value: answer?.value ?? this.current.value, error: null, seen: Date.now() };
      if (answer) {
        this.tag = answer.tag;
      }
      if (answer || hadError) {
        this.signal.emit(this.current);
      }
    } catch (error) {
      this.current = { ...this.current, error: error as Error };
      this.signal.emit(this.current);
      // The poll waits longer and longer between questions that fail.
      throw error;
    }
  }

  private readonly poll: Poll;
  private readonly signal = new Signal<this, Known<T>>(this);
  private current: Known<T> = { value: null, error: null, seen: 0 };
  private tag = '';
}
