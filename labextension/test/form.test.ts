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

  it('keeps its names while a kernel starts anew, and gives a notebook its own back', async () => {
    const state = await begun();
    state.set({ model: 'net', data: 'digits' });
    state.suggest(variables([], []));
    expect(state.form).toMatchObject({ model: 'net', data: 'digits' });
    state.suggest(variables(['other'], ['test_set']));
    expect(state.form).toMatchObject({ model: 'other', data: 'test_set' });
    state.suggest(variables(['net'], ['digits', 'test_set']));
    expect(state.form).toMatchObject({ model: 'net', data: 'digits' });
  });

  it('takes no word for a duty that only holds its letters', async () => {
    const state = await begun();
    state.suggest(variables(['net'], ['latest_values', 'val_set']));
    expect(state.form?.data).toBe('val_set');
  });

  it('takes changed defaults for what nobody changed, and forgets all on demand', async () => {
    const state = await begun();
    state.set({ max_drop: 0.02 });
    state.usual({ max_drop: 0.5, amounts: [0.9] });
    expect(state.form).toMatchObject({ max_drop: 0.02, amounts: [0.9] });
    await state.reset({ max_drop: 0.5 });
    expect(state.form?.max_drop).toBe(0.5);
  });

  it('leaves out what a form of another version kept', async () => {
    const database = new StateDB();
    await database.save('quanttaas:form', { gone: 1, amounts: 'many', name: 'mine' });
    expect((await begun(database)).form).toEqual({ ...EMPTY, name: 'mine' });
  });

  it('is there again after a reload', async () => {
    const database = new StateDB();
    (await begun(database)).set({ max_drop: 0.02 });
    await new Promise(resolve => setTimeout(resolve));
    const state = await begun(database);
    expect(state.form?.max_drop).toBe(0.02);
  });
});
