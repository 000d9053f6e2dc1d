import { render, screen, waitFor } from '@testing-library/react';
import userEvent from '@testing-library/user-event';
import { useState } from 'react';
import { describe, expect, it, vi } from 'vitest';

import { MissingServer } from '../../src/api';
import { Compress, type CompressProps } from '../../src/components/Compress';
import type { KernelState } from '../../src/kernel';
import type { Checked, Form } from '../../src/types';
import { FORM, SERVICE } from '../samples';

const KERNEL: KernelState = {
  obstacle: 'none',
  isBusy: false,
  seen: 1,
  variables: {
    models: [{ name: 'model', words: 'ResNet · 0.31 M · 1.2 MB · cpu' }],
    data: [
      { name: 'test_loader', words: '597 samples' },
      { name: 'train_loader', words: '1,200 samples' }
    ],
    functions: ['score'],
    is_loaded: true
  }
};

const OTHERS = {
  models: [{ name: 'model', words: '' }],
  data: [{ name: 'other', words: '' }],
  functions: [],
  is_loaded: true
};

function shown(values: Partial<CompressProps> = {}) {
  const insert = vi.fn();
  const check = vi.fn((form: Form): Promise<Checked> => {
    const problems = form.max_drop === null ? [{ field: 'max_drop', text: 'a number is expected' }] : [];
    const cell = problems.length ? '' : `%%quanttaas ${form.model}\namounts: ${form.amounts.join(' ')}`;
    return Promise.resolve({ ok: problems.length === 0, problems, cell });
  });
  const plan = vi.fn(() =>
    Promise.resolve({ trials: [], stages: 7, words: '4 trials, 7 stages', notes: [] })
  );

  function Kept(): React.JSX.Element {
    const [form, setForm] = useState<Form>(FORM);
    return (
      <Compress
        service={SERVICE}
        error={null}
        kernel={KERNEL}
        form={form}
        onChange={changed => setForm({ ...form, ...changed })}
        check={check}
        plan={plan}
        insert={insert}
        retry={vi.fn()}
        reset={vi.fn()}
        {...values}
      />
    );
  }
  render(<Kept />);
  return { insert, check, plan };
}

const button = (name: string) => screen.getByRole<HTMLButtonElement>('button', { name });

describe('Compress', () => {
  it('counts trials and stages, and writes the cell that the server made', async () => {
    const { insert } = shown();
    await screen.findByText('4 trials, 7 stages');
    await userEvent.click(button('Run'));
    // Somebody who clicks twice wants one study.
    await userEvent.click(button('Run'));
    expect(insert.mock.calls).toEqual([['%%quanttaas model\namounts: 0 0.5', true]]);
  });

  it('writes nothing while an answer to the form as it stands is missing', async () => {
    shown();
    await screen.findByText('4 trials, 7 stages');
    await userEvent.type(screen.getByLabelText('percent of the parameters to remove'), '30{Enter}');
    expect(button('Run').disabled).toBe(true);
    await screen.findByText('4 trials, 7 stages');
    expect(button('Run').disabled).toBe(false);
  });

  it('shows what is wrong below its field', async () => {
    shown();
    await screen.findByText('4 trials, 7 stages');
    await userEvent.clear(screen.getByLabelText('Lose at most'));
    await screen.findByText('a number is expected');
    expect(button('Insert cell').disabled).toBe(true);
  });

  it('refuses an amount that is none, and takes one out', async () => {
    const { check } = shown();
    const field = screen.getByLabelText('percent of the parameters to remove');
    await userEvent.type(field, '130');
    expect(screen.getByText('a percentage from 0 to below 100')).toBeTruthy();
    await userEvent.click(button('leave out 50 %'));
    await waitFor(() => expect(check.mock.lastCall?.[0].amounts).toEqual([0]));
  });

  it('writes nothing with a variable that is not there', async () => {
    shown({ kernel: { ...KERNEL, variables: OTHERS } });
    expect(await screen.findByText('there is no test_loader in this kernel now')).toBeTruthy();
    expect(button('Run').disabled).toBe(true);
  });

  it('asks again after the server was away', async () => {
    let isAway = true;
    const fine = { ok: true, problems: [], cell: '%%quanttaas model' };
    shown({ check: vi.fn(() => (isAway ? Promise.reject(new Error('away')) : Promise.resolve(fine))) });
    await screen.findByText('away');
    isAway = false;
    await screen.findByText('4 trials, 7 stages', {}, { timeout: 8000 });
  }, 12_000);

  it('offers what the chosen runtimes have', async () => {
    shown();
    expect(screen.queryByLabelText('fp8')).toBeNull();
    await userEvent.click(screen.getByLabelText('tensorrt'));
    expect(screen.getByLabelText('fp8')).toBeTruthy();
  });

  it('asks for no amounts in a search', async () => {
    shown();
    await userEvent.selectOptions(screen.getByLabelText('Search'), 'auto');
    expect(screen.queryByLabelText('percent of the parameters to remove')).toBeNull();
  });

  it('asks for no amounts of a pattern, which has one', async () => {
    shown();
    await userEvent.selectOptions(screen.getByLabelText('Prune'), '2:4');
    expect(screen.queryByLabelText('percent of the parameters to remove')).toBeNull();
    expect(screen.getByText('none, and half of the weights')).toBeTruthy();
  });

  it('keeps the list of a busy kernel, and says since when', () => {
    shown({ kernel: { ...KERNEL, isBusy: true } });
    expect(screen.getByText(/Kernel busy, list from/)).toBeTruthy();
    expect(screen.getByLabelText<HTMLSelectElement>('Model').value).toBe('model');
  });

  it.each([
    ['no-notebook', /Open a notebook/],
    ['no-kernel', /Waiting for the kernel/],
    ['not-python', /not Python/],
    ['no-package', /%pip install quanttaas-jupyter/]
  ] as const)('says what to do where there is %s', (obstacle, words) => {
    shown({ kernel: { ...KERNEL, obstacle, variables: null } });
    expect(screen.getByText(words)).toBeTruthy();
  });

  it('teaches the first step where there is no model', () => {
    shown({ kernel: { ...KERNEL, variables: { models: [], data: [], functions: [], is_loaded: false } } });
    expect(screen.getByText(/No model in this kernel yet/)).toBeTruthy();
  });

  it('gives the command where the server has no extension', () => {
    shown({ error: new MissingServer(), service: null });
    expect(screen.getByText('pip install quanttaas-jupyter')).toBeTruthy();
  });
});
