/** The form of a recipe: what it holds, kept over reloads. */

import type { IStateDB } from '@jupyterlab/statedb';
import { type ISignal, Signal } from '@lumino/signaling';

import type { Form } from './types';

const KEY = 'quanttaas:form';

export class FormState {
  constructor(private readonly database: IStateDB) {}

  /** Null until the server has said what a form starts with. */
  get form(): Form | null {
    return this.current;
  }

  get changed(): ISignal<this, void> {
    return this.signal;
  }

  /** Start with what was there before the reload, else with the server's values and those of the settings. */
  async begin(start: Form, settings: Partial<Form>): Promise<void> {
    const kept = (await this.database.fetch(KEY)) as Partial<Form> | undefined;
    this.put({ ...start, ...settings, ...kept });
  }

  set(values: Partial<Form>): void {
    if (this.current) {
      this.put({ ...this.current, ...values });
      void this.database.save(KEY, { ...this.current });
    }
  }

  private put(form: Form): void {
    this.current = form;
    this.signal.emit();
  }

  private readonly signal = new Signal<this, void>(this);
  private current: Form | null = null;
}
