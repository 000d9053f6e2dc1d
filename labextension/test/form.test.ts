import { StateDB } from '@jupyterlab/statedb';
import { describe, expect, it } from 'vitest';

import { FormState } from '../src/form';
import type { Variables } from '../src/kernel';
import { FORM } from './samples';

const EMPTY = { ...FORM, model: '', data: '', train: '' };

function variables(models: string[], data: string[]): Variables {
  const named = (names: string[]) => names.map(name => ({ name, words: '' }));
  return { models: named(models), data: named(data), functions: [], is_loaded: true };
}

async function begun(database = new StateDB()): Promise<FormState> {
  const state = new FormState(database);
  await state.begin(EMPTY, {});
  return state;
}

describe('FormState', () => {
  it('suggests the model, and data by what it is called', async () => {
    const state = await begun();
    state.suggest(variables(['net'], ['train_loader', 'test_loader']));
    expect(state.form).toMatchObject({ model: 'net', data: 'test_loader', train: 'train_loader' });
  });

  it('never takes training data for the judge where there is other data', async () => {
    const state = await begun();
    state.suggest(variables(['net'], ['train_set', 'digits']));
    expect(state.form).toMatchObject({ data: 'digits', train: 'train_set' });
  });

  it('leaves what a person chose, even nothing', async () => {
    const state = await begun();
    state.set({ train: '', data: 'digits' });
    state.suggest(variables(['net'], ['train_loader', 'test_loader', 'digits']));
    expect(state.form).toMatchObject({ train: '', data: 'digits' });
  });

  it('replaces a variable that is gone', async () => {
    const state = await begun();
    state.set({ model: 'old' });
    state.suggest(variables(['net'], []));
    expect(state.form?.model).toBe('net');
  });

  it('is there again after a reload', async () => {
    const database = new StateDB();
    (await begun(database)).set({ max_drop: 0.02 });
    await new Promise(resolve => setTimeout(resolve));
    const state = await begun(database);
    expect(state.form?.max_drop).toBe(0.02);
  });
});
