/** The form of a recipe: what it holds, kept over reloads. */

import type { IStateDB } from '@jupyterlab/statedb';
import { type ISignal, Signal } from '@lumino/signaling';

import type { Variables } from './kernel';
import type { Form } from './types';

const KEY = 'quanttaas:form';

/** Fields whose values are variables that a person is likely to want. */
type Named = 'model' | 'data' | 'train';

export class FormState {
  constructor(private readonly database: IStateDB) {}

  /** Null until the server has said what a form starts with. */
  get form(): Form | null {
    return this.current;
  }

  get changed(): ISignal<this, void> {
    return this.signal;
  }

  /** Start with what a person changed before the reload; the rest is of the settings, else of the server. */
  async begin(start: Form, settings: Partial<Form>): Promise<void> {
    const kept = (await this.database.fetch(KEY)) as Partial<Form> | undefined;
    this.changes = { ...fitting(start, kept ?? {}), ...this.changes };
    this.start = start;
    this.usual(settings);
  }

  /** Take other values for what nobody changed. */
  usual(settings: Partial<Form>): void {
    if (this.start) {
      const { model, data, train } = this.current ?? this.start;
      this.put({ ...this.start, model, data, train, ...fitting(this.start, settings), ...this.changes });
    }
  }

  /** Take what a person chose. */
  set(values: Partial<Form>): void {
    if (this.current) {
      this.changes = { ...this.changes, ...values };
      void this.database.save(KEY, this.changes);
      this.put({ ...this.current, ...values });
    }
  }

  /** Forget all that a person chose. */
  async reset(settings: Partial<Form>): Promise<void> {
    this.changes = {};
    this.current = null;
    await this.database.remove(KEY);
    this.usual(settings);
  }

  /** Fill in variables that nobody chose, or that are gone, from what there is. */
  suggest(variables: Variables): void {
    const form = this.current;
    if (!form) {
      return;
    }
    const names = new Set([...variables.models, ...variables.data].map(({ name }) => name));
    const likely = Object.entries(guessed(variables)) as [Named, string][];
    // No training data is a choice; no model and no data are none.
    const isOpen = (key: Named): boolean =>
      form[key] === '' ? !(key === 'train' && this.changes.train === '') : !names.has(form[key]);
    // What a person chose in another notebook comes back with that notebook.
    const wanted = likely.map(([key, name]): [Named, string] => {
      const chosen = this.changes[key];
      return [key, chosen && names.has(chosen) ? chosen : name];
    });
    const open = wanted.filter(
      ([key, name]) => name !== '' && form[key] !== name && (isOpen(key) || name === this.changes[key])
    );
    if (open.length) {
      this.put({ ...form, ...Object.fromEntries(open) });
    }
  }

  private put(form: Form): void {
    this.current = form;
    this.signal.emit();
  }

  private readonly signal = new Signal<this, void>(this);
  private start: Form | null = null;
  private changes: Partial<Form> = {};
  private current: Form | null = null;
}

/** The values of fields that the form of this version has, too. */
function fitting(start: Form, values: Partial<Form>): Partial<Form> {
  const known = Object.entries(values).filter(
    ([key, value]) => key in start && Array.isArray(value) === Array.isArray(start[key as keyof Form])
  );
  return Object.fromEntries(known);
}

/** The variables that a person is likely to want, from what they are called; of models the newest. */
function guessed({ models, data }: Variables): Record<Named, string> {
  const named = (pattern: RegExp): string => data.find(({ name }) => pattern.test(name))?.name ?? '';
  const train = named(/(^|_)train/i);
  const judges =
    named(/(^|_)(test|val|valid|validation|eval)(_|$)/i) ||
    (data.find(({ name }) => name !== train)?.name ?? '');
  const model = models.find(({ name }) => name === 'model') ?? models.at(-1);
  return { model: model?.name ?? '', data: judges, train };
}
