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

  /** Start with what was there before the reload, else with the settings' values, else with the server's. */
  async begin(start: Form, settings: Partial<Form>): Promise<void> {
    const kept = (await this.database.fetch(KEY)) as Partial<Form> | undefined;
    this.put({ ...start, ...settings, ...kept });
  }

  /** Take what a person chose. */
  set(values: Partial<Form>): void {
    for (const key of Object.keys(values)) {
      this.chosen.add(key);
    }
    if (this.current) {
      this.put({ ...this.current, ...values });
      void this.database.save(KEY, { ...this.current });
    }
  }

  /** Fill in variables that nobody chose, or that are gone, from what there is. */
  suggest(variables: Variables): void {
    const form = this.current;
    if (!form) {
      return;
    }
    const names = new Set([...variables.models, ...variables.data].map(({ name }) => name));
    const likely = guessed(variables);
    const open = (Object.keys(likely) as Named[]).filter(
      key => !names.has(form[key]) && !(form[key] === '' && this.chosen.has(key)) && form[key] !== likely[key]
    );
    if (open.length) {
      this.put({ ...form, ...Object.fromEntries(open.map(key => [key, likely[key]])) });
    }
  }

  private put(form: Form): void {
    this.current = form;
    this.signal.emit();
  }

  private readonly signal = new Signal<this, void>(this);
  private readonly chosen = new Set<string>();
  private current: Form | null = null;
}

/** The variables that a person is likely to want, from what they are called. */
function guessed({ models, data }: Variables): Record<Named, string> {
  const named = (pattern: RegExp): string => data.find(({ name }) => pattern.test(name))?.name ?? '';
  const train = named(/train/i);
  const judges = named(/test|val/i) || (data.find(({ name }) => name !== train)?.name ?? '');
  return { model: models[0]?.name ?? '', data: judges, train };
}
